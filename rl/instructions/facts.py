"""Organ and stain, asked of every picture for which they are stated."""

from __future__ import annotations

import numpy as np

from slidekick.data.items import Item
from slidekick.rl.instructions.balance import Balanced, one
from slidekick.rl.instructions.stock import Stock, known_organ, known_stain
from slidekick.rl.instructions.turns import Exchange, Instruction, conversation, said
from slidekick.rl.instructions.wording import ORGAN, STAIN


class Facts:
    """Which organ, which stain."""

    task = "facts"

    def __init__(self, stock: Stock) -> None:
        organs = Balanced((item.set, known_organ(item), item) for item in stock.items if known_organ(item))
        stains = Balanced((item.set, known_stain(item), item) for item in stock.items if known_stain(item))
        self.known = [drawer for drawer in (organs, stains) if drawer]

    def __bool__(self) -> bool:
        return bool(self.known)

    def make(self, rng: np.random.Generator) -> Instruction:
        """A conversation about a picture whose organ or stain is stated."""
        item = one(rng, self.known).draw(rng)
        return conversation(self.task, item.set, [item.image], self.ask(rng, item))

    def ask(self, rng: np.random.Generator, item: Item) -> Exchange | None:
        """Organ or stain of `item`, whichever is stated; None where neither is."""
        known = [(ORGAN, known_organ(item)), (STAIN, known_stain(item))]
        stated = [(wordings, answer) for wordings, answer in known if answer]
        if not stated:
            return None
        wordings, answer = one(rng, stated)
        return said(one(rng, wordings), answer)
