"""What a person changed in a draft: new words in place of old ones, line by line, checked against what was measured.

The draft stays as it was beside the words as they stand now, so that the difference can be told at any time, and made
into training items where the user asks for that.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from slidekick.copilot.evidence import UNBACKED, check_text, states_measurement
from slidekick.copilot.reports.forms import tidy
from slidekick.copilot.reports.report import Report, Sentence
from slidekick.copilot.reports.words import cited_in, without_marks
from slidekick.data.errors import InputError

MAX_TEXT = 100_000  # characters of a report's words
DRAFT, EDITED = "DRAFT", "DRAFT, EDITED"
CHECK = "edited, and not what was measured: "


@dataclass(frozen=True)
class Change:
    """Lines that stood in the draft and lines that stand in their place; either may be empty. evidence: ids that the
    lines name."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    evidence: tuple[str, ...]


def edited(report: Report, text: object) -> Report:
    """The report with other words. What they state is held against the measurements and warned of where it differs; it
    stays, since it is the person's word. Raises InputError for what is no text, empty, or too long."""
    if not isinstance(text, str) or not text.strip():
        raise InputError("the report has no words; write some, or draft it anew")
    if len(text) > MAX_TEXT:
        raise InputError(f"the report has {len(text)} characters, more than {MAX_TEXT}; shorten it")
    text = tidy(text.replace("\0", ""))
    new = replace(report, text=text, status=DRAFT if text == report.drafted else EDITED)
    kept = [warning for warning in report.warnings if not warning.startswith(CHECK)]
    return replace(new, warnings=(*kept, *(CHECK + one for one in _unbacked(new))))


def changes(report: Report) -> list[Change]:
    """What differs from the draft, in its order."""
    before, after = report.drafted.split("\n"), report.text.split("\n")
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    told = []
    for kind, a, b, c, d in matcher.get_opcodes():
        old, new = (tuple(line for line in lines if line.strip()) for lines in (before[a:b], after[c:d]))
        if kind != "equal" and (old or new):
            named = [name for line in (*old, *new) for name in cited_in(line)]
            told.append(Change(old, new, tuple(dict.fromkeys(named))))
    return told


def training_items(report: Report, image: str) -> list[dict]:
    """Lines for an items.jsonl: where a sentence that answered a question was rewritten, question and new words.

    image: path of the picture from the file's folder. What was only deleted or added teaches no answer: left out.
    """
    asked = {" ".join(sentence.text.split()): sentence for sentence in (*report.reading, *report.findings)}
    items = []
    for change in changes(report):
        for old, new in zip(change.before, change.after, strict=False):
            sentence = _of(old, asked)
            answer = _answer(new)
            if sentence and answer and answer != sentence.text:
                items.append(_item(report, image, sentence, answer))
    return items


def _of(line: str, asked: dict[str, Sentence]) -> Sentence | None:
    words = without_marks(line)
    return next((sentence for text, sentence in asked.items() if words.startswith(text)), None)


def _answer(line: str) -> str:
    """The words of a line, without the note that they were read."""
    return re.sub(r"\s*\(read, not measured; confidence [\d.]+\)", "", without_marks(line)).strip()


def _item(report: Report, image: str, sentence: Sentence, answer: str) -> dict:
    group = report.picture_id
    name = hashlib.sha256(f"{group}|{sentence.question}|{answer}".encode()).hexdigest()[:16]
    scale = {"mpp": report.mpp[0]} if report.mpp else {}
    told = {"question": sentence.question, "answer": answer, "draft": sentence.text, "draft_kind": sentence.kind}
    return {"id": name, "image": image, "split": "train", "group": group, **scale, **told}


def _unbacked(report: Report) -> Sequence[str]:
    """Reasons why lines that the draft does not have are not what was measured."""
    known = {without_marks(line) for line in report.drafted.split("\n")}
    reasons = []
    for line in report.text.split("\n"):
        words = without_marks(line)
        if words and words not in known and states_measurement(words):
            _, wrong = check_text(words, report.steps, report.evidence)
            reasons += [one.removeprefix(UNBACKED) for one in wrong]
    return list(dict.fromkeys(reasons))
