"""What the families draw from: pictures with their labels, what is known of the concepts in them, and texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slidekick.data.items import Item
from slidekick.rl.instructions.balance import Balanced, one
from slidekick.rl.instructions.concepts import Word, draw_phrasing, draw_word, names
from slidekick.rl.instructions.texts import Text
from slidekick.rl.instructions.truth import Truths, invented
from slidekick.rl.instructions.wording import QUESTIONS, short

TRUE = 0.5  # share of tool questions about pictures of which the answer is known, where there are any
# Pictures that show no tissue or that a network has painted teach nothing about tissue.
NO_TISSUE = frozenset({"groundtruth", "label picture", "reference"})
VAGUE = frozenset({"brightfield purple", "hematoxylin (separated)"})  # names that are no stains


class Stock:
    """items: training pictures. texts: training rows of the text sets."""

    def __init__(self, items: Sequence[Item], texts: Sequence[Text] = ()) -> None:
        self.items = [item for item in items if is_tissue(item)]
        self.texts = list(texts)
        labelled = [item for item in self.items if item.label and item.set in QUESTIONS]
        self.labelled: Balanced[Item] = Balanced((item.set, item.label, item) for item in labelled)
        self.pictures: Balanced[Item] = Balanced((item.set, item.label or "", item) for item in self.items)
        self.truths = Truths(self.items)

    def lesson(self, rng: np.random.Generator, tool: str, item: Item | None = None) -> tuple[Item, Word, dict]:
        """A picture (any, or `item`), a word to ask about, and what `tool` returns for it."""
        word = draw_word(rng)
        if not word.known:
            return item or self.pictures.draw(rng), word, {"found": False, "known": False, "nearest": one(rng, names())}
        if item is None:
            known = self.truths.draw(rng, word.concept) if rng.random() < TRUE else None
            item = known or self.pictures.draw(rng)
        return item, word, self.result(rng, tool, item, word.concept)

    def result(self, rng: np.random.Generator, tool: str, item: Item, concept: str) -> dict:
        """What `tool` returns for a known concept: the truth where it is known."""
        return self.truths.result(tool, item, concept) or invented(rng, tool, concept)

    def shown(self, rng: np.random.Generator, item: Item, count: int) -> list[Word]:
        """Up to `count` different concepts that the picture is known to hold, as words."""
        concepts = [triple.concept for triple in self.truths.of_item.get((item.set, item.id), ())]
        picked = rng.permutation(len(concepts))[:count]
        return [draw_phrasing(rng, concepts[index]) for index in picked]


def is_tissue(item: Item) -> bool:
    """Whether the picture is a photograph of tissue or cells: no drawn truth, no stain or panel made by a network."""
    stain, made_by = item.stain or "", item.extra.get("made_by", "microscope")
    drawn = stain in NO_TISSUE or stain.startswith("moving") or item.organ == "synthetic"
    return not drawn and not item.extra.get("virtual") and made_by == "microscope"


def known_organ(item: Item) -> str | None:
    """The organ where it is stated."""
    return None if not item.organ or item.organ.startswith("not stated") else short(item.organ)


def known_stain(item: Item) -> str | None:
    """The stain where it is stated."""
    vague = not item.stain or "not stated" in item.stain or item.stain in VAGUE or short(item.stain) in VAGUE
    return None if vague else short(item.stain)
