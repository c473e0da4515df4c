"""What is it? The label of a picture, asked in the set's taught wordings; a near miss earns a little.

Pictures are drawn as often as they are met, and rare classes weigh more (`truth["weight"]`), so that the weighted mean
reward is balanced accuracy, which is what evaluation reports.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from slidekick.data.items import Item
from slidekick.rl.instructions.balance import Balanced
from slidekick.rl.instructions.classification import Classification
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.instructions.turns import text_of
from slidekick.rl.parsing import label
from slidekick.rl.tasks.labels import class_weights, nearness
from slidekick.rl.tasks.task import Rollout, Row, Task, Truth


class Labelled:
    """Labelled pictures: a set with the root of its size, then any of its pictures."""

    def __init__(self, stock: Stock) -> None:
        self.family = Classification(stock)
        pictures = stock.labelled.rows
        self.items: Balanced[Item] = Balanced(
            (name, "", item) for name in stock.labelled.sets for rows in pictures[name].values() for item in rows
        )
        self.weights = {
            name: class_weights(Counter({one: len(rows) for one, rows in pictures[name].items()}))
            for name in stock.labelled.sets
        }

    def __bool__(self) -> bool:
        return bool(self.items)

    def make(self, rng: np.random.Generator) -> Row:
        """A picture's label, asked openly."""
        item = self.items.draw(rng)
        question, *_ = self.family.ask(rng, item)
        labels = self.family.labelled.labels(item.set)
        truth = {"answer": item.label, "labels": labels, "weight": self.weights[item.set][item.label]}
        return Row("classification", item.set, text_of(question), truth | {"set": item.set}, (item.image,))


def read(rollout: Rollout, truth: Truth) -> str | None:
    """The one label of the set that the answer is; see `parsing.label`."""
    return label(rollout.text, truth["labels"])


def score(said: str, rollout: Rollout, truth: Truth) -> dict[str, float]:
    """`labels.nearness`: 1 for the label, up to `GRADED` for another on its branch of the tree."""
    return {"score": nearness(truth["set"], said, truth["answer"]), "exact": float(said == truth["answer"])}


TASK = Task("classification", Labelled, read, score)
