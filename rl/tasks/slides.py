"""Questions about composed slides, of which a plan tells what is where: shared by the two slide families.

A row names its slide by the seed of the plan; `slide_bags.Bags` over the same pictures with `SIZES` draws that plan
again, with the features of its tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slidekick.copilot.language import place, places
from slidekick.data.composed import draw_layout, load_cases
from slidekick.data.layout import Layout
from slidekick.grounding.export import from_rle, to_rle
from slidekick.grounding.measure import THROUGHOUT, place_of
from slidekick.rl.instructions.slides import SlideQuestion, exchange, slide_questions
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.instructions.turns import text_of
from slidekick.rl.parsing import GRID, boxes
from slidekick.rl.tasks.segmentation import sampled
from slidekick.rl.tasks.task import Rollout, Row

SIZES = {"rows": (14, 40), "columns": (14, 40)}  # of plans, as rl/configs/slides.yaml has them
COARSE = 0.5  # of pointing, for a place in words alone
TRIES = 50  # plans looked through for a question of the kinds wanted


@dataclass(frozen=True)
class Asked:
    """One question about a plan. about: what it asks, with the truth. question, answer: in words."""

    layout: Layout
    seed: int
    about: SlideQuestion
    question: str
    answer: str


class Plans:
    """Plans of slides over training pictures."""

    def __init__(self, stock: Stock) -> None:
        self.cases = load_cases(stock.items)

    def __bool__(self) -> bool:
        return bool(self.cases)

    def ask(self, rng: np.random.Generator, kinds: tuple[str, ...]) -> Asked | None:
        """A question of one of `kinds`, these drawn evenly as far as a plan allows; None where no plan did."""
        for _ in range(TRIES):
            seed = int(rng.integers(1 << 31))
            layout, pools = draw_layout(self.cases, seed, **SIZES)
            absent = [name for name in pools if name not in layout.tissues]
            some = [one for one in slide_questions(layout, absent) if one.kind in kinds]
            if not some:
                continue
            sorts = sorted({(one.kind, one.present) for one in some})
            sort = sorts[rng.integers(len(sorts))]
            alike = [one for one in some if (one.kind, one.present) == sort]
            about = alike[rng.integers(len(alike))]
            question, *_, answer = exchange(about, layout, rng)
            return Asked(layout, seed, about, text_of(question), text_of(answer))
        return None


def row_of(task: str, asked: Asked, truth: dict) -> Row:
    """The question as a row."""
    return Row(task, asked.layout.case, asked.question, {"answer": asked.answer} | truth, slide=asked.seed)


def cells_of(layout: Layout, tissue: str) -> dict:
    """Where a tissue is, as COCO run lengths over the plan's cells."""
    return to_rle(layout.cells == layout.tissues.index(tissue))


def pointing(rollout: Rollout, cells: dict) -> float:
    """How well what is pointed at lies on the truth, 0–1; 0 where nothing is pointed at.

    By the tools' masks where there are any: of each the share of its pixels that lie on the truth, over all calls with
    a mask the mean. Else by boxes on the grid of 0–999: the share of them whose middle lies on it (the pointing game,
    Zhang et al. 2016). Else by the places named (`placed`), which are worth `COARSE` of it: a ninth of the slide can
    hardly be checked, and "throughout" points at nothing.
    """
    true = from_rle(cells)
    masks = [step.mask for step in rollout.steps if step.mask is not None and step.mask.any()]
    if masks:
        return float(np.mean([_precision(mask, true) for mask in masks]))
    if found := boxes(rollout.text):
        height, width = true.shape
        middles = [((x0 + x1) / 2 / (GRID + 1), (y0 + y1) / 2 / (GRID + 1)) for x0, y0, x1, y1 in found]
        return float(np.mean([true[int(y * height), int(x * width)] for x, y in middles]))
    return COARSE * placed(rollout.text, true)


def placed(text: str, true: np.ndarray) -> float:
    """Mean over the places that a text names of: 1 for the place of the truth (`measure.place_of`), 1/2 for another
    ninth of the picture that holds at least a ninth of it, else 0. 0 where none is named."""
    said = {found.cells for found in places(text)}
    own = place_of(true)
    if not said or own is None:
        return 0.0
    return float(np.mean([_held(cells, true, own) for cells in sorted(said, key=sorted)]))


def _held(said: frozenset[str], true: np.ndarray, own: str) -> float:
    if said == place(own):
        return 1.0
    if said == place(THROUGHOUT):
        return 0.0
    rows, columns = np.nonzero(true)
    inside = np.ones(len(rows), bool)
    for words, where, side in ((("upper", "lower"), rows, true.shape[0]), (("left", "right"), columns, true.shape[1])):
        third = where * 3 // side
        inside &= third == (0 if words[0] in said else 2 if words[1] in said else 1)
    return 0.5 * float(inside.mean() >= 1 / 9)


def _precision(mask: np.ndarray, true: np.ndarray) -> float:
    """Share of the mask's pixels that lie on the truth, each pixel looked up in the truth's cells."""
    on = sampled(true, mask.shape)
    return float(on[mask].mean())
