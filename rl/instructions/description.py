"""Describe it: what the picture is, and what `measure` tells of what it holds."""

from __future__ import annotations

import numpy as np

from slidekick.copilot.sentences import measure_sentence
from slidekick.data.items import Item
from slidekick.rl.instructions.balance import one
from slidekick.rl.instructions.concepts import Word, draw_phrasing
from slidekick.rl.instructions.stock import Stock, known_organ, known_stain
from slidekick.rl.instructions.turns import Call, Exchange, Instruction, called, conversation

DESCRIBE = (
    "Describe this picture.",
    "Describe the picture.",
    "Write a description.",
    "Give a description.",
    "Describe this with measurements.",
    "What can be said of this picture?",
)
TWO = 0.3  # share of descriptions with two measurements, where the picture is known to hold two concepts
OWN = 0.6  # share that measure what the picture is known to hold; the others measure nuclei


class Description:
    """A first sentence read from the picture, then one a measurement."""

    task = "describe"

    def __init__(self, stock: Stock) -> None:
        self.stock = stock

    def __bool__(self) -> bool:
        return bool(self.stock.items)

    def make(self, rng: np.random.Generator) -> Instruction:
        """A labelled picture in two of three cases, else any."""
        labelled = self.stock.labelled and rng.random() < 2 / 3
        item = (self.stock.labelled if labelled else self.stock.pictures).draw(rng)
        return conversation(self.task, item.set, [item.image], self.ask(rng, item))

    def ask(self, rng: np.random.Generator, item: Item) -> Exchange:
        """A description of `item`."""
        number = 2 if rng.random() < TWO else 1
        words = self.stock.shown(rng, item, number) if rng.random() < OWN else []
        calls = [self._call(rng, item, word) for word in words or [draw_phrasing(rng, "nucleus")]]
        facts = [measure_sentence(call.concept, call.result) for call in calls]
        return called(one(rng, DESCRIBE), calls, " ".join([*reading(item), *facts]))

    def _call(self, rng: np.random.Generator, item: Item, word: Word) -> Call:
        return Call("measure", word.one, self.stock.result(rng, "measure", item, word.concept))


def reading(item: Item) -> list[str]:
    """One sentence of what the picture is, as far as it is known."""
    known = item.label or ", ".join(filter(None, (known_organ(item), known_stain(item))))
    return [f"The picture shows {known}."] if known else []
