"""Rows of the text sets as questions with answers: public question sets, and real report text.

Each set has a reader that turns a line of its items.jsonl into a `Text`. Reports are asked so that the answer follows
from the question (facts to a line, a line to one of its facts, the rest of a sentence). Questions that point at a
picture which is not there are left out of the open ones; the choices of the others teach words and form, no more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from slidekick.data.errors import InputError
from slidekick.data.items import FILE_NAME

FOLDER = "text"  # of the data folder
LONGEST = 420  # characters of question and answer together: some 120 tokens, three times a usual conversation
MARKS = ("<|", "<empty_output>", "tool_call>")  # control tokens: no text of others may become one
POINTS = re.compile(
    r"\b(this|these|those|image|picture|figure|photo\w*|slide|shown?|shows|seen|here|present|field|section|arrows?|left|"
    r"right|view|striking)\b",
    re.IGNORECASE,
)
OF_ONE = re.compile(r"\w+ (?:the|there|it|a|an)\b", re.IGNORECASE)  # "Are the vessels dilated?" asks of one figure


@dataclass(frozen=True)
class Text:
    """One row.

    family: "vqa" or "report". label: what rows of a set are balanced by. source: the row's own words, by which it is
    compared with held-out rows. forms: (question, answer) wordings of it, none where it cannot be asked. held: it
    belongs to a held-out split, ours or the source's own test. group: case, slide or figure.
    """

    set: str
    id: str
    family: str
    label: str
    source: tuple[str, ...]
    forms: tuple[tuple[str, str], ...]
    held: bool
    group: str = ""


def load_texts(data: Path) -> list[Text]:
    """All rows of the text sets under `data`, held-out ones too; none where there is no folder of texts.

    Raises InputError for a line that is no row of its set (file:line).
    """
    found = []
    for name in sorted(READERS):
        file = data / FOLDER / name / FILE_NAME
        for number, line in enumerate(file.read_bytes().split(b"\n") if file.is_file() else (), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                found.append(_text(name, row, *READERS[name](row)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                reason = f"{error} is missing" if isinstance(error, KeyError) else error
                raise InputError(f"{file}:{number}: {reason}; mend or remove the line") from error
    return found


def _text(name: str, row: dict, family: str, label: str, source: tuple[str, ...], forms: list) -> Text:
    held = row["split"] != "train" or str(row.get("source_split", "")).startswith("test")
    return Text(name, row["id"], family, label, source, usable(forms), held, str(row.get("group", "")))


def usable(forms: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Questions and answers, tidy; less those that are empty, too long or hold a control token."""
    clean = [(tidy(question), tidy(answer)) for question, answer in forms if question and answer]
    return tuple(
        form
        for form in clean
        if all(form) and len(" ".join(form)) <= LONGEST and not any(mark in " ".join(form) for mark in MARKS)
    )


def tidy(text: str) -> str:
    """Single spaces, none before a comma, point or question mark."""
    return re.sub(r"\s+([,.;:?!])", r"\1", re.sub(r"\s+", " ", text)).strip()


def _question(row: dict) -> tuple:
    question, answer = row["question"], row["answer"]
    kind = answer.lower() if answer.lower() in ("yes", "no") else "open"
    points = POINTS.search(question) or (kind != "open" and OF_ONE.match(question))
    return "vqa", kind, (question, answer), [] if points else [(question, answer)]


def _choices(row: dict) -> tuple:
    options = [_option(option) for option in row.get("options") or row.get("choices") or ()]
    answer, question = _option(str(row.get("answer", ""))), row["question"]
    asked = 1 < len(options) <= 5 and answer in options and not _UNSEEN.search(f"{question} {options}")
    forms = [(f"{question} {wording.format(', '.join(options))}", answer) for wording in _CHOOSE] if asked else []
    return "vqa", "choice", (question, answer), forms


_CHOOSE = ("Choose one: {}.", "Options: {}.", "Which is it: {}?")
# What no picture tells, and options that are no answer.
_UNSEEN = re.compile(
    r"\b(age|survival|alive|vital|which breast|size|margins?|patient|her2|stage|procedure|receptors?|status|spread|"
    r"left|right|how (?:big|large|many)|\d*\s?[cm]m|mention\w*|state|unclear|insufficient|unknown|null)\b",
    re.IGNORECASE,
)


def _option(text: str) -> str:
    return re.sub(r"^\(?[A-H][).]\s+", "", text).strip().rstrip(".")


def _reg2025(row: dict) -> tuple:
    report = tidy(row["report"])
    place, _, finding = report.partition(";")
    organ, _, specimen = place.partition(", ")
    facts = "; ".join(reversed([part.strip() for part in re.split(r",\s(?![^(]*\))", finding.strip())]))
    forms = [(f"Write the report line. {specimen} of the {organ.lower()}: {facts}", report)] if specimen else []
    forms += [(f"Which organ does this report name? {report}", organ.lower())]
    forms += [(f"What is the specimen? {report}", specimen)]
    first = re.split(r"[,(]|\s2\. ", finding.strip().removeprefix("1. "))[0]
    forms += [(f"What is the diagnosis in this report? {report}", first)]
    if score := re.search(r"Gleason's score (\d+ \(\d\+\d\))", report):
        forms += [(f"What is the Gleason score? {report}", score[1])]
    return "report", row["organ"], (row["report"],), forms


def _gastric(row: dict) -> tuple:
    text, subtype = row["text"], row["subtype"]
    described = " ".join(re.split(r"(?<=\.)\s+", text)[:-1])
    forms = [(f"What is the diagnosis? {text}", subtype)]
    if described and "." not in subtype:
        forms += [(f"How may {subtype[0].lower()}{subtype[1:]} of the stomach look?", described)]
        forms += [(f"Describe {subtype[0].lower()}{subtype[1:]} of the stomach.", described)]
    return "report", subtype, (text,), forms


def _kidney(row: dict) -> tuple:
    if not row["readings"]:
        raise ValueError("readings is empty")
    read = row["readings"][-1]  # with the most stains at hand
    diagnosis, chronicity = (tidy(read.get(key) or "").rstrip(".") for key in ("diagnosis", "chronicity"))
    line = f"Kidney, biopsy; {diagnosis}." + (f" Chronicity: {chronicity}." if chronicity else "")
    forms = [
        (f"Write the report line. {diagnosis}; biopsy of the kidney; chronicity {chronicity or 'not given'}", line)
    ]
    forms += [
        (f"What is the chronicity? {line}", chronicity),
        (f"What is the diagnosis in this report? {line}", diagnosis),
    ]
    return "report", "biopsy", (diagnosis, row["original_diagnosis"]), forms if diagnosis else []


def _dragon(row: dict) -> tuple:
    quoted = re.search(r"[“\"]([^”\"]+)[”\"]", row.get("notes") or "")
    forms = []
    if row["language"].startswith("English") and quoted and row["label"]:
        if row["label"] == "True":
            forms = [(f"Report: {quoted[1]}. Does the cancer come from the lung?", "yes")]
        else:
            forms = [(f"{quoted[1]}. From which organ is this tissue?", row["label"])]
    return "report", row["task"], (row["report"],), forms


def _caption(row: dict) -> tuple:
    caption, words = row["caption"], row["caption"].split()
    usable = 8 <= len(words) <= 30 and caption[0].isupper() and caption.endswith(".") and not _CHATTER.search(caption)
    cut = round(len(words) * 0.6)
    begun, rest = " ".join(words[:cut]), " ".join(words[cut:])
    forms = [(f"Finish the sentence: {begun}", rest), (f"Go on: {begun}", rest)] if usable else []
    return "report", "caption", (caption,), forms


_CHATTER = re.compile(
    r"[@#!?]|http|twitter|speaker|narrator|video|discuss|lecture|\b(?:I|we|you|my|your|me|us)\b|path\b|\b\d+\s?yo\b",
    re.IGNORECASE,
)

# Set -> reader of a row: family, label, the row's own words, its forms.
READERS: dict[str, Callable[[dict], tuple]] = {
    "dragon_reports": _dragon,
    "gastric_captions": _gastric,
    "kidney_diagnoses": _kidney,
    "multipathqa": _choices,
    "pathmmu_socialpath": _choices,
    "pathvqa": _question,
    "pathvqa_book": _question,
    "quilt1m_captions": _caption,
    "reg2025_reports": _reg2025,
    "wsi_vqa": _choices,
}
