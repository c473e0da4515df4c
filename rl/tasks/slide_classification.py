"""What is on the slide as a whole: its main tissue, its organ, the tissue of a part, the highest Gleason pattern."""

from __future__ import annotations

import numpy as np

from slidekick.data.errors import InputError
from slidekick.rl.instructions.slides import GRADES, READ
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.parsing import label
from slidekick.rl.tasks.labels import COMPOSED, nearness
from slidekick.rl.tasks.slides import Plans, row_of
from slidekick.rl.tasks.task import Rollout, Row, Task, Truth


class Read:
    """Questions that the slide's tokens answer; kinds drawn evenly within a plan."""

    def __init__(self, stock: Stock) -> None:
        self.plans = Plans(stock)
        self.tissues = sorted({name for case in self.plans.cases.values() for name in case.pools})

    def __bool__(self) -> bool:
        return bool(self.plans)

    def make(self, rng: np.random.Generator) -> Row:
        """One question."""
        if (asked := self.plans.ask(rng, READ)) is None:
            raise InputError("no composed slide has a question for slide classification; leave it out")
        labels = {"organ": sorted(self.plans.cases), "grade": list(GRADES)}.get(asked.about.kind, self.tissues)
        return row_of("slide_classification", asked, {"labels": labels, "kind": asked.about.kind})


def read(rollout: Rollout, truth: Truth) -> str | None:
    """The one label that the answer is; see `parsing.label`."""
    return label(rollout.text, truth["labels"])


def score(said: str, rollout: Rollout, truth: Truth) -> dict[str, float]:
    """As in classification: 1 for the label, up to `labels.GRADED` for one of the same organ and behaviour."""
    return {"score": nearness(COMPOSED, said, truth["answer"]), "exact": float(said == truth["answer"])}


TASK = Task("slide_classification", Read, read, score)
