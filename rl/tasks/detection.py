"""Where, in boxes: all of a kind where they are few, else the largest. Without boxes, those of a tool's mask count.

Truth is read from the answer that supervised training teaches, by the same parser.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from slidekick.data.errors import InputError
from slidekick.rl.evaluation.questions import to_grid
from slidekick.rl.instructions.detection import Detection, object_boxes
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.instructions.turns import text_of
from slidekick.rl.parsing import boxes
from slidekick.rl.scores import average_precision_50, box_iou
from slidekick.rl.tasks.task import Rollout, Row, Task, Truth

LEAST_PX = 10  # smaller pieces of a mask are specks
TRIES = 200  # conversations that are looked through for one that is answered in boxes
EMPTY = 0.5  # of the questions about what is not there are kept, which leaves one in seven or so
MOST = 100  # boxes that are matched; more are wrong anyway, and matching grows with the cube


class Boxed:
    """Questions of the instructions' detection family that are answered in boxes."""

    def __init__(self, stock: Stock) -> None:
        self.family = Detection(stock)
        told = bool(self.family.marked or self.family.absent)
        self._any = told and self._drawn(np.random.default_rng(0)) is not None

    def __bool__(self) -> bool:
        return self._any

    def make(self, rng: np.random.Generator) -> Row:
        """Boxes of a kind, or that there are none."""
        if row := self._drawn(rng):
            return row
        raise InputError(f"no picture of {TRIES} with boxes that can be told in a few; leave detection out")

    def _drawn(self, rng: np.random.Generator) -> Row | None:
        """The family also asks for names and for tools, which are passed over."""
        for _ in range(TRIES):
            made = self.family.make(rng)
            question, answer = text_of(made.messages[0]), text_of(made.messages[-1])
            true = boxes(answer) if len(made.messages) == 2 else None
            if true or (true is not None and rng.random() < EMPTY):
                truth = {"answer": answer, "boxes": [list(box) for box in true]}
                return Row("detection", made.set, question, truth, made.images)
        return None


def iou_f1(said: Sequence[Sequence[float]], truth: Sequence[Sequence[float]]) -> float:
    """2 Σ IoU of the best one-to-one matching / (boxes said + true boxes), 0–1; 1 where both are empty.

    The F1 of detection with IoU in place of hit or miss, so that every bit of overlap counts: P = Σ IoU / said, R = Σ
    IoU / true. Matched by the Hungarian algorithm (Kuhn 1955; scipy) for the largest sum, as Carion et al. 2020 match.
    A box said twice is matched once.
    """
    if not len(said) or not len(truth):
        return float(not len(said) and not len(truth))
    overlap = box_iou(np.asarray(said, float), np.asarray(truth, float))
    return float(2 * overlap[linear_sum_assignment(overlap, maximize=True)].sum() / (len(said) + len(truth)))


def mask_boxes(mask: np.ndarray) -> list[list[int]]:
    """Boxes around the pieces of a mask (H, W), on the grid of 0–999, largest first; specks are left out."""
    if not mask.any():
        return []
    ids, _ = ndimage.label(mask)
    small = np.flatnonzero(np.bincount(ids.ravel()) < LEAST_PX)
    ids[np.isin(ids, small)] = 0
    height, width = mask.shape
    return [to_grid(np.array(box) / ([width, height] * 2)) for box in object_boxes(ids)]


def read(rollout: Rollout, truth: Truth) -> list | None:
    """The boxes in the text; where it holds none, those around what the tools drew."""
    found = boxes(rollout.text)
    drawn = [step.mask for step in rollout.steps if step.mask is not None]
    if found is None and drawn:
        found = [box for mask in drawn for box in mask_boxes(mask)]
    return found if found is not None and len(found) <= MOST else None


def score(said: list, rollout: Rollout, truth: Truth) -> dict[str, float]:
    """`iou_f1`; `ap50` beside it is what evaluation reports."""
    return {"score": iou_f1(said, truth["boxes"]), "ap50": average_precision_50(said, truth["boxes"])}


TASK = Task("detection", Boxed, read, score)
