"""A report's words: Markdown of few kinds (headings, lists, bold), written as HTML or into a Word document.

Nothing else is markup here: no links, no pictures, no HTML, so that what a model or a person wrote loads and runs
nothing.
Evidence stands in brackets, `[e3 e4]`. What differs from the draft is marked as edited.
"""

from __future__ import annotations

import html
import re
from functools import cache
from itertools import pairwise

EDITED = "edited by hand"
_CITED = re.compile(r"\[(e\d+(?: e\d+)*)\]")
_BLOCKS = ("list_item_open", "paragraph_open", "heading_open")


def cited_in(line: str) -> list[str]:
    """Ids of the evidence that a line names."""
    return [name for match in _CITED.finditer(line) for name in match[1].split()]


def without_marks(line: str) -> str:
    """A line's words alone, without list marks and evidence."""
    words = re.sub(r"^\s*(?:#+|[-*+]|\d+[.)])\s+", "", _CITED.sub("", line))
    return " ".join(words.replace("**", "").split())


def as_html(text: str, drafted: str, level: int = 2, prefix: str = "") -> str:
    """The words as HTML. level: of a heading that Markdown has at 2. prefix: before the ids that citations lead to."""
    tokens = _parsed(text, drafted)
    for token in tokens:
        if token.type.startswith("heading"):
            token.tag = f"h{min(6, int(token.tag[1:]) + level - 2)}"
        for child in token.children or ():
            if child.type == "text":
                child.type, child.content = "html_inline", _linked(child.content, prefix)
            elif child.type == "softbreak":
                child.type, child.content = "html_inline", "<br>"
    return _markdown().renderer.render(tokens, _markdown().options, {})


def into_docx(text: str, drafted: str, document) -> None:
    """Append the words to a `docx.Document`."""
    style, depth = None, 0
    for token in _parsed(text, drafted):
        if token.type in ("bullet_list_open", "ordered_list_open"):
            style, depth = ("List Bullet" if token.type.startswith("bullet") else "List Number"), depth + 1
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            depth -= 1
            style = style if depth else None
        elif token.type == "heading_open":
            paragraph = document.add_heading(level=min(9, int(token.tag[1:])))
        elif token.type == "paragraph_open":
            paragraph = document.add_paragraph(style=style)
        elif token.type == "inline":
            _runs(paragraph, token.children)


def _runs(paragraph, children) -> None:
    from docx.shared import Pt

    bold = False
    for child in children:
        if child.type in ("strong_open", "strong_close"):
            bold = child.type == "strong_open"
        elif child.type == "softbreak":
            paragraph.add_run().add_break()
        elif child.type in ("text", "html_inline"):
            for place, part in enumerate(_CITED.split(child.content if child.type == "text" else f" ({EDITED})")):
                run = paragraph.add_run(f"[{part}]" if place % 2 else printable(part))
                run.bold = bold
                if place % 2 or child.type == "html_inline":
                    run.font.size = Pt(8)


def printable(text: str) -> str:
    """The text with a mark in place of each control character, which XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", text)


@cache
def _markdown():
    from markdown_it import MarkdownIt

    return MarkdownIt("zero").enable(["heading", "list", "emphasis", "newline"])


def _parsed(text: str, drafted: str) -> list:
    """Tokens, with a note at the end of each block whose lines the draft does not have."""
    from markdown_it.token import Token

    lines, known = text.split("\n"), {without_marks(line) for line in drafted.split("\n")}
    tokens = _markdown().parse(text)
    for token, following in pairwise(tokens):
        if token.type not in _BLOCKS or following.type != "inline" or not token.map:
            continue
        words = [without_marks(line) for line in lines[slice(*token.map)]]
        if any(line and line not in known for line in words):
            note = Token("html_inline", "", 0, content=f' <span class="cite hand">{EDITED}</span>')
            following.children.append(note)
    return tokens


def _linked(text: str, prefix: str) -> str:
    parts = _CITED.split(text)
    for place, part in enumerate(parts):
        escaped = [html.escape(one) for one in part.split()] if place % 2 else []
        links = [f'<a class="cite" href="#{prefix}{one}">{one}</a>' for one in escaped]
        parts[place] = "".join(links) if place % 2 else html.escape(part)
    return "".join(parts)
