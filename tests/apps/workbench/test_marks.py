"""What is said is shown as it is; only our own marks are links."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidekick.apps.workbench.marks import marked, plain
from slidekick.copilot.answer import Answer, Claim, Evidence

ATTACKS = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))",
    "![x](http://evil/x.png)", "<svg/onload=alert(1)>", "javascript:alert(1)", "`code`", "**bold** __b__ *i* _i_",
    "# head", "> quote", "- list", "1. list", "| a | b |\n|---|---|", "http://evil.example", "a@b.example",
    "<a href=#mark-0-e1>x</a>", "$$x$$", "\\[x\\]", "```\ncode\n```", "    indented code", "\tcode", "&lt;b&gt;",
    "&#60;b&#62;", "[e1](#mark-0-e1)", "~~gone~~", "---", "<!-- x -->", "<details open ontoggle=alert(1)>",
    "\u202ereversed", "${alert(1)}", "{{7*7}}",
)  # fmt: skip


@pytest.mark.parametrize("text", ATTACKS)
def test_nothing_that_is_said_is_markup(text):
    told = plain(text)
    assert not re.search(r"[<>\[\]()*_`!|~#$\\{}:@/]", re.sub(r"&#\d+;|&nbsp;", "", told))
    assert not re.search(r"^\s", told)


@given(st.text())
def test_what_is_said_can_be_read_as_it_was(text):
    shown = html.unescape(plain(text)).replace("\u00a0", " ").replace("  \n", "\n")
    assert shown.split() == text.split()


def test_measured_sentences_lead_to_their_place():
    item = Evidence("e2", "count", "nucleus", 2.0, "objects", True, "t1", {"size": [1, 1], "counts": "01"})
    claims = (Claim("There are 2 nuclei.", ("e1", "e2"), True), Claim("It is colon.", (), True, "reading"))
    answer = Answer("?", "There are 2 nuclei. It is colon.", "2", 0.9, (item,), claims)
    assert marked(answer, 3) == "There are 2 nuclei&#46; [▸&#160;e2](#mark-3-e2) It is colon&#46;"
    false = Answer("?", "There are 9 nuclei.", "9", 0.9, (item,), (Claim("There are 9 nuclei.", (), False),))
    assert marked(false, 0) == "There are 9 nuclei&#46; (not backed)"
    assert marked(Answer("?", "<b>", "x", 0.5), 0) == "&#60;b&#62;"
