"""Several turns about one picture: exchanges of the other families after one another, the picture shown once."""

from __future__ import annotations

import numpy as np

from slidekick.rl.instructions.balance import one
from slidekick.rl.instructions.classification import Classification, YesNo
from slidekick.rl.instructions.counting import Counting
from slidekick.rl.instructions.facts import Facts
from slidekick.rl.instructions.measuring import Measuring
from slidekick.rl.instructions.refusal import Refusal
from slidekick.rl.instructions.segmentation import Segmentation
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.instructions.turns import Instruction, conversation
from slidekick.rl.instructions.vqa import Vqa

THREE = 0.3  # share with three turns; the others have two


class Dialogue:
    """What it is, then questions of other families."""

    task = "dialogue"

    def __init__(self, stock: Stock) -> None:
        self.stock = stock
        self.first = Classification(stock)
        self.then = [family(stock) for family in (YesNo, Facts, Counting, Segmentation, Measuring, Refusal, Vqa)]

    def __bool__(self) -> bool:
        return bool(self.first)

    def make(self, rng: np.random.Generator) -> Instruction:
        """A conversation about a labelled picture."""
        item = self.stock.labelled.draw(rng)
        exchanges, left = [self.first.ask(rng, item)], list(self.then)
        turns = 3 if rng.random() < THREE else 2
        while len(exchanges) < turns:
            family = one(rng, left)
            left.remove(family)  # each family once
            if exchange := family.ask(rng, item):
                exchanges.append(exchange)
        return conversation(self.task, item.set, [item.image], *exchanges)
