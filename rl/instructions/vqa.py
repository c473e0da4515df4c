"""Closed and open questions: what sets note of a picture besides its label, what people asked and answered about it,
and the rows of public question sets.

People's own are keys `question` and `answer` of a line, such as `slidekick revise --items` writes. The public sets have
no pictures here: their rows teach words and the form of an answer, and are few.
"""

from __future__ import annotations

import re

import numpy as np

from slidekick.copilot.evidence import states_measurement
from slidekick.data.items import Item
from slidekick.rl.instructions.balance import Balanced, one
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.instructions.texts import Text, usable
from slidekick.rl.instructions.turns import Exchange, Instruction, conversation, said

# Attribute -> wordings. Those whose values are yes and no are asked so.
ATTRIBUTES = {
    "behaviour": ("Is this benign or malignant?", "Benign or malignant?"),
    "cell_size": ("How large is the cell?", "Is the cell big or small?"),
    "cell_shape": ("What shape has the cell?", "Is the cell round or irregular?"),
    "nucleus_shape": ("What shape has the nucleus?", "Describe the shape of the nucleus."),
    "nuclear_cytoplasmic_ratio": ("How high is the nuclear to cytoplasmic ratio?", "Is the N:C ratio low or high?"),
    "chromatin_density": ("How dense is the chromatin?", "Is the chromatin loose or dense?"),
    "cytoplasm_vacuole": ("Has the cytoplasm vacuoles?", "Is the cytoplasm vacuolated?"),
    "cytoplasm_texture": ("What texture has the cytoplasm?", "Is the cytoplasm clear or frosted?"),
    "cytoplasm_colour": ("What colour is the cytoplasm?", "Which colour has the cytoplasm?"),
    "granule_type": ("What type are the granules?", "Which granules does the cell have?"),
    "granule_colour": ("What colour are the granules?", "Which colour do the granules have?"),
    "granularity": ("Does the cell have granules?", "Is the cell granular?"),
}
SPELT = {"loosely": "loose", "densely": "dense"}
# Tissue sets whose labels tell benign from malignant.
GRADED = frozenset({"glas", "lc25000_colon", "lc25000_lung", "oral_oscc", "breakhis_400x", "ebhi_seg"})
MALIGNANT = re.compile(r"carcinoma", re.IGNORECASE)
BENIGN = re.compile(r"benign|normal|fibroadenoma|adenosis|tubular adenoma|polyp", re.IGNORECASE)
IS_IT = (("Is this malignant?", "malignant"), ("Is this benign?", "benign"), ("Is this cancer?", "malignant"))
PICTURES = 0.6  # share with a picture


class Vqa:
    """Questions about attributes and behaviour, people's own, and the text sets'."""

    task = "vqa"

    def __init__(self, stock: Stock) -> None:
        facts = [(item, fact) for item in stock.items for fact in (*facts_of(item), *asked_of(item))]
        self.pictures: Balanced[tuple[Item, tuple[str, str]]] = Balanced(
            (item.set, " ".join(fact), (item, fact)) for item, fact in facts
        )
        self.texts: Balanced[Text] = Balanced((t.set, t.label, t) for t in stock.texts if t.family == "vqa")

    def __bool__(self) -> bool:
        return bool(self.pictures or self.texts)

    def make(self, rng: np.random.Generator) -> Instruction:
        """With a picture or from a text."""
        if self.pictures and (not self.texts or rng.random() < PICTURES):
            item, fact = self.pictures.draw(rng)
            return conversation(self.task, item.set, [item.image], _asked(rng, *fact))
        text = self.texts.draw(rng)
        return conversation(self.task, text.set, [], said(*one(rng, text.forms)))

    def ask(self, rng: np.random.Generator, item: Item) -> Exchange | None:
        """A question about `item`; None where nothing is noted."""
        facts = [*facts_of(item), *asked_of(item)]
        return _asked(rng, *one(rng, facts)) if facts else None


def facts_of(item: Item) -> list[tuple[str, str]]:
    """What is noted of a picture besides its label: (attribute, value)."""
    noted = [(name, SPELT.get(value, value)) for name, value in item.attributes.items() if name in ATTRIBUTES and value]
    if item.set not in GRADED or not item.label or "behaviour" in item.attributes:
        return noted
    malignant, benign = bool(MALIGNANT.search(item.label)), bool(BENIGN.search(item.label))
    return noted if malignant == benign else [*noted, ("behaviour", "malignant" if malignant else "benign")]


def asked_of(item: Item) -> list[tuple[str, str]]:
    """What a person asked and answered about a picture, in their words: (question, answer), if any. What states a
    measurement is left out: the model is to measure, not to recall."""
    question, answer = (item.extra.get(key) for key in ("question", "answer"))
    if not isinstance(question, str) or not isinstance(answer, str) or states_measurement(answer):
        return []
    return list(usable([(question, answer)]))


def _asked(rng: np.random.Generator, name: str, value: str) -> Exchange:
    if name == "behaviour" and rng.random() < 0.5:
        question, meant = one(rng, IS_IT)
        return said(question, "yes" if meant == value else "no")
    return said(one(rng, ATTRIBUTES.get(name, (name,))), value)
