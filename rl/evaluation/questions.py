"""What is asked in an evaluation, and what is right: one `Question` for each labelled thing, made from items.

A family says what is measured: classify (the label of a picture), vqa (questions that came with the data), detect
(boxes), count, report, tools (whether tools are used as they should be: `tool_questions`), tasks (what is reinforced:
`task_questions`), honesty (what has no answer: `honesty`). A kind says how an answer is read (`slidekick.rl.parsing`).
Nothing is asked or scored here.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from slidekick.copilot.language import plural
from slidekick.data.errors import InputError
from slidekick.data.items import Item
from slidekick.rl.instructions import QUESTIONS, is_labelled, other_wordings
from slidekick.rl.parsing import GRID, LETTERS, choice, number, plain

FAMILIES = ("classify", "vqa", "detect", "count", "report", "tools", "tasks", "honesty")
PARTLY_MARKED = ("brecahad_nuclei",)  # sets that mark some of their cells only: their counts are no truth
NO_NAME = re.compile(r"\b(?:other|uncategorised|not given|miscellaneous|unknown)\b", re.IGNORECASE)
REPORT = "Write the diagnosis of a pathology report on this picture."
BOXES = "Where are the {many}? Answer with boxes [x0, y0, x1, y1] in whole numbers from 0 to 999."
COUNT = "How many {many} are there?"
LETTER = "Answer with the letter of one option."


@dataclass(frozen=True)
class Question:
    """One question about one picture.

    id: "set/item", and "#n" where an item has several. group: patient, slide or source; never empty. question: the
    words of the question; options: choices or labels among which the answer must be; truth: a label, a letter, yes or
    no, a number, boxes on the grid of 0–999, or text. picture: a file, the bytes of one, or None where the data have
    none (then a blank one is shown). wordings: other words for the same question. mpp: µm per pixel, where known.
    notes: further columns of its rows.
    """

    set: str
    id: str
    group: str
    family: str
    kind: str
    question: str
    truth: object
    options: tuple[str, ...] = ()
    picture: Path | bytes | None = None
    wordings: tuple[str, ...] = ()
    mpp: float | None = None
    notes: dict[str, object] = field(default_factory=dict)

    def words(self) -> str:
        """The question as it is put to a model: choices are listed below it, one a line."""
        if self.kind == "choice":
            listed = [f"{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=False)]
            return "\n".join((self.question, *listed, LETTER))
        return self.question


def sample(questions: Sequence[Question], most: int | None) -> list[Question]:
    """At most `most` of them, the same ones each time: chosen by the hash of their ids, in their own order."""
    if most is None or len(questions) <= most:
        return list(questions)
    chosen = set(sorted((one.id for one in questions), key=_digest)[:most])
    return [one for one in questions if one.id in chosen]


def sample_each(questions: Sequence[Question], most: int) -> list[Question]:
    """At most `most` of each set."""
    by_set: dict[str, list[Question]] = defaultdict(list)
    for one in questions:
        by_set[one.set].append(one)
    return [one for group in by_set.values() for one in sample(group, most)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def classify_questions(items: Iterable[Item], labels: dict[str, Sequence[str]]) -> list[Question]:
    """The set's own question of every labelled picture; labels: what a set's answers may be."""
    return [
        question_of(
            item,
            "classify",
            "label",
            QUESTIONS[item.set][0],
            item.label,
            options=tuple(labels[item.set]),
            wordings=other_wordings(item.set),
        )
        for item in items
        if is_labelled(item)
    ]


def labels_of(items: Iterable[Item]) -> dict[str, list[str]]:
    """Set -> its labels, in order."""
    found: dict[str, set[str]] = defaultdict(set)
    for item in items:
        if is_labelled(item):
            found[item.set].add(item.label)
    return {name: sorted(labels) for name, labels in found.items()}


def detect_questions(items: Sequence[Item]) -> list[Question]:
    """Where each of a set's boxed classes is in each of its pictures, classes that a picture lacks included."""
    marks = _marks(items)
    return [
        question_of(item, "detect", "boxes", BOXES.format(many=plural(name)), _grid_boxes(item, name), name)
        for item in items
        for name in (_named(marks[item.set]) if item.boxes else ())
    ]


def _grid_boxes(item: Item, name: str) -> list[list[int]]:
    from PIL import Image

    with Image.open(item.image) as picture:
        size = np.array([*picture.size] * 2)
    return [to_grid(np.array(box[:4]) / size) for box in item.boxes if box[4] == name]


def to_grid(fractions: np.ndarray) -> list[int]:
    """A box in fractions of the picture as whole numbers from 0 to 999."""
    return [int(side) for side in np.clip(np.round(fractions * (GRID + 1)), 0, GRID)]


def count_questions(items: Sequence[Item]) -> list[Question]:
    """How many of each class there are, where every object is marked by instances, boxes or points.

    Where all classes of a set are of one kind ("... nucleus"), that kind is asked for too.
    """
    found, of_set = [], _marks(items)
    for item in items:
        if item.set in PARTLY_MARKED:
            continue
        names = _named(of_set[item.set]) if item.boxes or item.points else []
        marks = [mark[-1] for mark in (*item.boxes, *item.points)]
        numbers = {name: marks.count(name) for name in names}
        if marks and (head := _common_head(of_set[item.set])):
            numbers[head] = len(marks)
        if item.instances and len(item.classes) == 1:
            numbers[_bare(next(iter(item.classes.values())))] = _objects(item.instances)
        for name, n in numbers.items():
            found.append(question_of(item, "count", "number", COUNT.format(many=plural(name)), float(n), name))
    return found


def _objects(path: Path) -> int:
    from PIL import Image

    return int((np.unique(np.asarray(Image.open(path))) > 0).sum())


def _marks(items: Sequence[Item]) -> dict[str, set[str]]:
    """Set -> the classes that are marked in its pictures."""
    marks: dict[str, set[str]] = defaultdict(set)
    for item in items:
        marks[item.set] |= {mark[-1] for mark in (*item.boxes, *item.points)}
    return marks


def _named(marks: set[str]) -> list[str]:
    return sorted(mark for mark in marks if not NO_NAME.search(mark))


def _common_head(marks: set[str]) -> str | None:
    heads = {_bare(mark).split()[-1] for mark in marks}
    return heads.pop() if len(heads) == 1 and len(marks) > 1 else None


def _bare(name: str) -> str:
    return re.split(r"[(,]", name)[0].strip()


def given_question(entry: dict, name: str, picture: Path | bytes | None) -> Question:
    """A question that came with the data. entry: question, answer, and options or choices where it has some.

    Its kind follows from the answer: a choice where options are listed (a label beyond 26), else yes or no, a number,
    or open text. Raises ValueError for an answer that is none of the options.
    """
    words, answer = str(entry["question"]).strip(), str(entry["answer"]).strip()
    listed = entry.get("options") or entry.get("choices") or ()
    options = [re.sub(r"^\(?[A-Z][).:]\s+", "", str(one)).strip() for one in listed]
    group = str(entry.get("group") or entry["id"])
    base = {"set": name, "id": f"{name}/{entry['id']}", "group": group, "family": "vqa"}
    base |= {"picture": picture, "question": words}
    if options:
        truth = _chosen(answer, options)
        if len(options) <= len(LETTERS):
            return Question(kind="choice", truth=truth, options=tuple(options), **base)
        base["question"] = f"{words} One of: {'; '.join(options)}."
        return Question(kind="label", truth=truth, options=tuple(options), **base)
    if plain(answer) in ("yes", "no"):
        return Question(kind="yes_no", truth=plain(answer), options=("yes", "no"), **base)
    if re.fullmatch(r"\d+(?:\.\d+)?", answer) and number(answer) is not None:
        return Question(kind="number", truth=float(answer), **base)
    return Question(kind="text", truth=plain(answer), **base)


def _chosen(answer: str, options: list[str]) -> str:
    """The letter of the right option, or beyond 26 options its words."""
    if len(options) > len(LETTERS):
        if answer in options:
            return answer
    elif answer in options:
        return LETTERS[options.index(answer)]
    elif letter := choice(answer, options):
        return letter
    raise ValueError(f"the answer {answer[:60]!r} is none of the options")


def report_question(entry: dict, name: str, picture: Path | bytes | None) -> Question:
    """A picture's report, caption or text, to be written; truth: its plain words."""
    text = next(str(entry[key]) for key in ("report", "caption", "text") if entry.get(key))
    group = str(entry.get("group") or entry["id"])
    return Question(name, f"{name}/{entry['id']}", group, "report", "text", REPORT, plain(text), picture=picture)


def question_of(item: Item, family: str, kind: str, words: str, truth: object, part: str = "", **more) -> Question:
    """A question about an item. part: tells it from others about the same one. more: further fields."""
    name = f"{item.set}/{item.id}" + (f"#{part}" if part else "")
    group = item.group or item.id
    return Question(item.set, name, group, family, kind, words, truth, picture=item.image, mpp=item.mpp, **more)


def need(questions: list[Question], place: object, family: str) -> list[Question]:
    """The questions; InputError where there is none, with what the family needs."""
    wants = {
        "classify": "labelled pictures of sets that have questions (see slidekick.rl.instructions)",
        "vqa": "lines with question and answer",
        "detect": "pictures with boxes",
        "count": "pictures with instances, boxes or points",
        "report": "lines with report, caption or text",
        "tools": "pictures of tissue",
        "tasks": "labelled pictures, or masks or points of known concepts",
    }
    if not questions:
        raise InputError(f"{place}: nothing to ask for {family}, which needs {wants[family]}; see --split and --set")
    return questions
