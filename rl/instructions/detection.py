"""Where, in numbers: boxes as whole numbers from 0 to 999 of the picture's width and height, and what lies in one.

A box is written [x0, y0, x1, y1], origin top left; a point (x, y). Only pictures with few objects are asked for all of
them, others for the largest. A quarter of the questions ask to detect in words, and `segment` is called.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from slidekick.copilot.language import many_of
from slidekick.copilot.sentences import segment_sentence
from slidekick.data.items import Item
from slidekick.data.triples import Triple, truth
from slidekick.rl.instructions.balance import Balanced, one
from slidekick.rl.instructions.concepts import Word, draw_phrasing, is_region
from slidekick.rl.instructions.lessons import ToolFamily, asked
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.instructions.turns import Exchange, Instruction, conversation, said

GRID = 1000  # coordinates go from 0 to 999
MOST = 3  # boxes in an answer: each costs some 17 tokens
CLEAR = 1.2  # times the area of the next: what may be called the largest
ABSENT, BY_WORDS = 0.1, 0.25  # shares of questions about what is not there, and of those answered by the tool
TRIES = 20  # pictures tried for boxes that can be told: few objects, or one that is clearly the largest
BOXES = (
    "Box the {many}.",
    "Give boxes for the {many}.",
    "Where are the {many}? Answer in boxes.",
    "Boxes of the {many}?",
)
LARGEST = ("Box the largest {one}.", "Give the box of the largest {one}.", "Where is the largest {one}? Give its box.")
IN_BOX = ("What is in the box {at}?", "Name what is in {at}.", "What does {at} hold?")
AT_POINT = ("What is at {at}?", "Which cell is at {at}?", "Name the cell at {at}.")
BY_TOOL = ("Detect the {many}.", "Locate the {many}.", "Detect any {one}.", "Find and show each {one}.")
NOTHING = "none"
NAMELESS = frozenset({"uncategorised red blood cell", "nucleus, type not given", "other (miscellaneous) nucleus"})
ONLY = frozenset({"bm_graz_nuclei", "brecahad_nuclei"})  # sets that mark one kind alone: naming it tells nothing
PARTED = frozenset({"ids", "components", "one"})  # how objects are told apart for sure; see data/ontology.yaml

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Task:
    """A picture and what to ask: boxes of a concept (triple) or of a box label, or the name of a mark."""

    item: Item
    kind: str
    label: str
    triple: Triple | None = None
    mark: tuple | None = None


class Detection(ToolFamily):
    """Boxes of objects, names of boxes and points, and detection by tool."""

    task, tool = "detect", "segment"

    def __init__(self, stock: Stock) -> None:
        super().__init__(stock)
        marked, absent = _tasks(stock)
        self.marked: Balanced[_Task] = Balanced((task.item.set, f"{task.kind} {task.label}", task) for task in marked)
        self.absent: Balanced[_Task] = Balanced((task.item.set, task.label, task) for task in absent)

    def make(self, rng: np.random.Generator) -> Instruction:
        """A conversation about a picture whose objects are marked or surely absent, or, by tool, about any picture."""
        roll = rng.random()
        if self.absent and roll < ABSENT:
            return self._told(self.absent.draw(rng), rng)
        for _ in range(TRIES if self.marked and roll < 1 - BY_WORDS else 0):
            if told := self._told(self.marked.draw(rng), rng):
                return told
        return super().make(rng)

    def _told(self, task: _Task, rng: np.random.Generator) -> Instruction | None:
        exchange = _named(rng, task) if task.mark else _boxed(rng, task)
        return exchange and conversation(self.task, task.item.set, [task.item.image], exchange)

    def wording(self, rng: np.random.Generator, word: Word, result: dict) -> tuple[str, str]:
        """By tool: in the words of `segment`."""
        return asked(rng, BY_TOOL, word), segment_sentence(word.one, result, yes=False)


def written(box: Box, size: tuple[int, int]) -> str:
    """A box in pixels as it is said. size: the picture's (width, height)."""
    return "[" + ", ".join(str(_grid(value, size[i % 2])) for i, value in enumerate(box)) + "]"


def object_boxes(ids: np.ndarray) -> list[Box]:
    """Boxes (x0, y0, x1, y1) in pixels of the objects in ids (H, W), 0 = none; largest area first."""
    areas = np.bincount(ids.ravel())
    found = [(areas[i + 1], where) for i, where in enumerate(ndimage.find_objects(ids)) if where is not None]
    ordered = sorted(found, key=lambda pair: -pair[0])
    return [(columns.start, rows.start, columns.stop, rows.stop) for _, (rows, columns) in ordered]


def _tasks(stock: Stock) -> tuple[list[_Task], list[_Task]]:
    """Tasks about what is marked, and about what is surely absent."""
    marked, absent = [], []
    for item in stock.items:
        marked += [_Task(item, "box", label) for label in sorted({box[4] for box in item.boxes})]
        for kind, marks in (("in", item.boxes), ("at", item.points)):
            names = sorted({mark[-1] for mark in marks} - NAMELESS if item.set not in ONLY else ())
            # one mark a label and picture, so that crowds do not crowd out
            marked += [_Task(item, kind, name, mark=next(m for m in marks if m[-1] == name)) for name in names]
    for (_, _, concept), triple in stock.truths.known.items():
        if is_region(concept):
            continue
        if triple.mode == "absent":
            absent.append(_Task(triple.item, "none", concept, triple))
        elif triple.mode == "mask" and (triple.objects in PARTED or triple.item.instances):
            marked.append(_Task(triple.item, "box", concept, triple))
    return marked, absent


def _boxed(rng: np.random.Generator, task: _Task) -> Exchange | None:
    """Boxes of a concept; None where the picture does not serve."""
    if task.triple is None:
        word = Word(task.label, many_of(task.label), task.label, True)
        boxes = sorted((box[:4] for box in task.item.boxes if box[4] == task.label), key=_area, reverse=True)
    else:
        word = draw_phrasing(rng, task.triple.concept)
        boxes = [] if task.triple.mode == "absent" else object_boxes(truth(task.triple)[1])
    if not boxes:
        return said(one(rng, BOXES).format(many=word.many), NOTHING)
    size = Image.open(task.item.image).size
    if len(boxes) <= MOST:
        placed = sorted(boxes, key=lambda box: (box[1], box[0]))  # from top to bottom, as one reads
        return said(one(rng, BOXES).format(many=word.many), ", ".join(written(box, size) for box in placed))
    if _area(boxes[0]) < CLEAR * _area(boxes[1]):
        return None
    return said(one(rng, LARGEST).format(one=word.one), written(boxes[0], size))


def _named(rng: np.random.Generator, task: _Task) -> Exchange:
    size = Image.open(task.item.image).size
    if task.kind == "in":
        return said(one(rng, IN_BOX).format(at=written(task.mark[:4], size)), task.label)
    x, y = (_grid(value, side) for value, side in zip(task.mark[:2], size, strict=True))
    return said(one(rng, AT_POINT).format(at=f"({x}, {y})"), task.label)


def _grid(value: float, side: int) -> int:
    return int(min(max(value * GRID / side, 0), GRID - 1))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
