"""Is it on the slide, where, and how much of it? Half of the reward is for the answer and half for pointing to it."""

from __future__ import annotations

import numpy as np

from slidekick.copilot.language import quantities
from slidekick.data.errors import InputError
from slidekick.grounding.export import from_rle
from slidekick.rl.instructions.slides import BY_TOOL
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.parsing import open_text, yes_no
from slidekick.rl.tasks.slides import Plans, cells_of, placed, pointing, row_of
from slidekick.rl.tasks.task import Rollout, Row, Task, Truth

POINTING = 0.5  # of the reward, where there is something to point at
SLACK = 0.2  # error of a share from which it earns nothing; half of it, which evaluation calls right, earns half
ROUNDING = 0.005


class Looked:
    """Questions for the tools: present or not, where, and what share."""

    def __init__(self, stock: Stock) -> None:
        self.plans = Plans(stock)

    def __bool__(self) -> bool:
        return bool(self.plans)

    def make(self, rng: np.random.Generator) -> Row:
        """One question."""
        if (asked := self.plans.ask(rng, BY_TOOL)) is None:
            raise InputError("no composed slide has a question for slide vqa; leave it out")
        about = asked.about
        cells = cells_of(asked.layout, about.asked) if about.present else None
        truth = {"kind": about.kind, "concept": about.asked, "share": about.share, "cells": cells}
        return row_of("slide_vqa", asked, truth)


def read(rollout: Rollout, truth: Truth) -> object | None:
    """present: "yes" or "no" (`parsing.yes_no`); share: the one percentage in the text as a fraction; where: words."""
    if truth["kind"] == "present":
        return yes_no(rollout.text)
    return share_in(rollout.text) if truth["kind"] == "share" else open_text(rollout.text)


def share_in(text: str) -> float | None:
    """The one percentage that a text states, 0–1; "<1%" is half of it; None for none, for two, and above 100 %."""
    said = {(one.value, one.bound) for one in quantities(text) if one.unit == "%"}
    if len(said) != 1:
        return None
    value, bound = said.pop()
    return value / 100 * (0.5 if bound == "<" else 1.0) if value <= 100 and bound != ">" else None


def score(said: object, rollout: Rollout, truth: Truth) -> dict[str, float]:
    """answer · (1 − `POINTING`) + pointing · `POINTING`; the answer alone where the tissue is not on the slide.

    answer: right or wrong for present; max(0, 1 − |share − truth| / `SLACK`), less half a per cent, to which
    shares are written; the place for where (`slides.placed`).
    pointing: `slides.pointing`, 0 where the answer denies the tissue.
    """
    kind, cells = truth["kind"], truth["cells"]
    if kind == "present":
        answer = float(said == ("no" if cells is None else "yes"))
    elif kind == "share":
        answer = max(0.0, 1 - max(0.0, abs(said - truth["share"]) - ROUNDING) / SLACK)
    else:
        answer = placed(rollout.text, from_rle(cells))
    if cells is None:
        return {"score": answer, "answer": answer}
    pointed = 0.0 if said == "no" else pointing(rollout, cells)
    return {"score": answer * (1 - POINTING) + pointed * POINTING, "answer": answer, "pointing": pointed}


TASK = Task("slide_vqa", Looked, read, score)
