"""How many? The number must come from a tool, about the word that was asked for; its error is what is rewarded."""

from __future__ import annotations

import numpy as np

from slidekick.copilot.language import MASS
from slidekick.copilot.sentences import count_sentence
from slidekick.data.items import Item
from slidekick.rl.instructions.balance import Balanced
from slidekick.rl.instructions.concepts import draw_phrasing, is_region, names
from slidekick.rl.instructions.counting import COUNT
from slidekick.rl.instructions.lessons import asked
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.instructions.truth import counted
from slidekick.rl.parsing import number
from slidekick.rl.scores import relative_error
from slidekick.rl.tasks.saying import means, told
from slidekick.rl.tasks.segmentation import ABSENT, UNSAID
from slidekick.rl.tasks.task import Rollout, Row, Task, ToolStep, Truth

TOOLS = ("count", "measure")
GUESSED = 0.1  # of the reward for a number without a tool behind it: nobody can check it


class Counted:
    """Pictures of which it is known how many objects of a concept they show; concepts drawn evenly in each set."""

    def __init__(self, stock: Stock) -> None:
        self.stock = stock
        objects = [name for name in names() if not is_region(name) and name.split()[-1] not in MASS]
        marked = [(i.set, name, (i, name)) for i in stock.items for name in objects if counted(i, name) is not None]
        known = [t for t in stock.truths.known.values() if t.concept in objects and t.mode != "whole"]
        parted = [t for t in known if t.mode == "mask" and (t.objects != "none" or t.values is None)]
        drawn = [(t.item.set, t.concept, (t.item, t.concept)) for t in parted]
        self.there: Balanced[tuple[Item, str]] = Balanced([*marked, *drawn])
        self.absent: Balanced[tuple[Item, str]] = Balanced(
            (t.item.set, t.concept, (t.item, t.concept)) for t in known if t.mode == "absent"
        )

    def __bool__(self) -> bool:
        return bool(self.there)

    def make(self, rng: np.random.Generator) -> Row:
        """How many, in a wording that is taught."""
        item, concept = (self.absent if self.absent and rng.random() < ABSENT else self.there).draw(rng)
        result, word = self.stock.truths.result("count", item, concept), draw_phrasing(rng, concept)
        truth = {"concept": concept, "word": word.one, "count": result.get("count", 0)}
        truth["answer"] = count_sentence(word.one, result)
        return Row("counting", item.set, asked(rng, COUNT, word), truth, (item.image,))


def read(rollout: Rollout, truth: Truth) -> float | None:
    """The one number that the text states; see `parsing.number`."""
    return number(rollout.text)


def score(said: float, rollout: Rollout, truth: Truth) -> dict[str, float]:
    """Mean over all calls of max(0, 1 − |n − truth| / max(truth, 1)), n what the call returned; times `UNSAID` where
    the text does not tell it. Without a call, `GUESSED` times the same of the number that is said.
    """
    own = closeness(said, truth["count"])
    if not rollout.steps:
        return {"score": GUESSED * own, "counted": 0.0, "told": 0.0}
    found = float(np.mean([closeness(returned(step, truth), truth["count"]) for step in rollout.steps]))
    says = float(told(rollout.text, rollout.steps))
    return {"score": found * (UNSAID + (1 - UNSAID) * says), "counted": found, "told": says}


def closeness(n: float | None, truth: float) -> float:
    """1 − relative error (`scores.relative_error`), clipped to 0–1; 0 for None."""
    return 0.0 if n is None else max(0.0, 1.0 - relative_error(n, truth))


def returned(step: ToolStep, truth: Truth) -> float | None:
    """How many the call says there are: 0 where it found nothing; None for another tool or word, and for no number."""
    if step.name not in TOOLS or not means(step.concept, truth["concept"]) or step.result.get("known") is False:
        return None
    if step.result.get("found") is False:
        return 0.0
    n = step.result.get("count")
    return float(n) if isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n < float("inf") else None


TASK = Task("counting", Counted, read, score)
