"""Report sentences: the line of a labelled picture, and real report text read and written.

The line has the form of signed-out biopsies, "Organ, specimen; finding". Kidney biopsies whose signed-out diagnosis is
among the texts are asked for it beside their picture.
"""

from __future__ import annotations

import numpy as np

from slidekick.copilot.sentences import capital
from slidekick.data.items import Item
from slidekick.rl.instructions.balance import Balanced, one
from slidekick.rl.instructions.stock import Stock, known_organ, known_stain
from slidekick.rl.instructions.texts import Text
from slidekick.rl.instructions.turns import Exchange, Instruction, conversation, said

LINE = ("Write the report line.", "Report this in one line.", "Write one line for the report.", "Diagnosis line?")
BIOPSY = ("What is the signed-out diagnosis of this biopsy?", "Diagnose this kidney biopsy.", "Write the diagnosis.")
SIGNED_OUT = {"kidney_stain_pairs": "kidney_diagnoses"}  # pictures: texts of the same cases
PICTURES = 0.4  # share with a picture


class Report:
    """Lines for pictures and texts."""

    task = "report"

    def __init__(self, stock: Stock) -> None:
        organs = [(item.set, item.label, item) for name in stock.labelled.sets for item in _rows(stock, name)]
        self.diagnoses = _diagnoses(stock)
        signed = [(i.set, i.pair, i) for i in stock.items if (i.set, i.pair) in self.diagnoses]
        self.pictures: Balanced[Item] = Balanced([*organs, *signed])
        self.texts: Balanced[Text] = Balanced((t.set, t.label, t) for t in stock.texts if t.family == "report")

    def __bool__(self) -> bool:
        return bool(self.pictures or self.texts)

    def make(self, rng: np.random.Generator) -> Instruction:
        """With a picture or from a text."""
        if self.pictures and (not self.texts or rng.random() < PICTURES):
            item = self.pictures.draw(rng)
            return conversation(self.task, item.set, [item.image], self.ask(rng, item))
        text = self.texts.draw(rng)
        return conversation(self.task, text.set, [], said(*one(rng, text.forms)))

    def ask(self, rng: np.random.Generator, item: Item) -> Exchange:
        """The line of a picture that has one."""
        if (item.set, item.pair) in self.diagnoses:
            return said(one(rng, BIOPSY), self.diagnoses[item.set, item.pair])
        stain = f", {known_stain(item)}" if known_stain(item) else ""
        return said(one(rng, LINE), f"{capital(known_organ(item))}{stain}; {item.label}.")


def _rows(stock: Stock, name: str) -> list[Item]:
    return [item for rows in stock.labelled.rows[name].values() for item in rows if known_organ(item)]


def _diagnoses(stock: Stock) -> dict[tuple[str, str], str]:
    """(set, pair) of pictures -> the diagnosis that their case was signed out with."""
    texts = {sheet: name for name, sheet in SIGNED_OUT.items()}
    return {(texts[t.set], t.group): t.source[1] for t in stock.texts if t.set in texts}
