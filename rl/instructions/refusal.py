"""What cannot be told: questions that a picture does not answer, and the words for saying so.

Whole-patient facts never stand in a picture; markers need their own stain; fine detail needs magnification; an organ
that the set does not state is not guessed. Each has answerable neighbours in the other families.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from slidekick.data.items import Item
from slidekick.rl.instructions.balance import Balanced, one
from slidekick.rl.instructions.stock import Stock, known_organ, known_stain
from slidekick.rl.instructions.turns import Exchange, Instruction, conversation, said
from slidekick.rl.instructions.wording import ORGAN

LOW_POWER, COARSE = 10, 0.9  # objective magnification and µm per pixel from which single nuclei are not judged


@dataclass(frozen=True)
class Reason:
    """Why something cannot be told: of which pictures, which questions, and what is said."""

    name: str
    holds: Callable[[Item], bool]
    questions: tuple[str, ...]
    answers: tuple[str, ...]


def _he(organ: str) -> Callable[[Item], bool]:
    return lambda item: known_stain(item) == "H&E" and organ in (known_organ(item) or "")


_PLAIN = ("This cannot be told from this picture.", "The picture does not tell this.")
_MARKER = ("This cannot be told from H&E alone.", "H&E does not tell this; it needs its own test.")
REASONS = (
    Reason(
        "patient",
        lambda item: True,
        (
            "How old is the patient?",
            "What is the patient's age?",
            "Is the patient a man or a woman?",
            "What is the patient's name?",
            "How long will the patient live?",
            "What is the survival time?",
            "Did the patient smoke?",
            "Will this respond to treatment?",
            "Which treatment was given?",
            "What is the TNM stage?",
            "Has it spread to other organs?",
            "Are the resection margins free?",
            "What symptoms does the patient have?",
            "Where does the patient live?",
            "When was the patient operated on?",
            "Who is the pathologist?",
            "How tall is the patient?",
            "What is the blood group?",
            "Does the patient have a fever?",
            "Which hospital is this from?",
            "When was this slide made?",
            "How did the illness begin?",
            "What did the blood tests show?",
            "Is the patient pregnant?",
            "Has the patient been treated before?",
            "Is the patient alive?",
            "How long has the patient been ill?",
            "Does the patient drink?",
            "Was chemotherapy given?",
            "Which ward is this from?",
            "What operation was done?",
            "Which doctor ordered this?",
            "What is the patient's haemoglobin?",
            "Was the patient ever abroad?",
            "Which medicine should be given?",
            "What is the prognosis?",
            "What was seen at endoscopy?",
            "Does the patient have children?",
            "How was the anaesthesia?",
        ),
        _PLAIN,
    ),
    Reason(
        "breast marker",
        _he("breast"),
        ("What is the HER2 status?", "Is HER2 positive?", "Is it ER positive?", "What is the hormone receptor status?"),
        _MARKER,
    ),
    Reason(
        "lung marker",
        _he("lung"),
        ("Is there an EGFR mutation?", "What is the PD-L1 score?", "Is ALK rearranged?"),
        _MARKER,
    ),
    Reason(
        "colon marker",
        _he("colon"),
        ("Is KRAS mutated?", "Is this microsatellite unstable?", "What is the MSI status?", "Is BRAF mutated?"),
        _MARKER,
    ),
    Reason("brain marker", _he("brain"), ("Is IDH mutated?", "Is the MGMT promoter methylated?"), _MARKER),
    Reason(
        "marker", _he(""), ("What is the Ki-67 index?", "Is it positive for p53?", "Which genes are mutated?"), _MARKER
    ),
    Reason(
        "magnification",
        lambda item: (item.magnification or 99) <= LOW_POWER or (item.mpp or 0) >= COARSE,
        (
            "How does the chromatin look?",
            "Are there nucleoli?",
            "How many mitoses are there per high-power field?",
            "What is the nuclear grade?",
            "Which kinds of white blood cells are these?",
        ),
        ("This cannot be told at this magnification.", "The magnification is too low to tell."),
    ),
    Reason(
        "organ",
        lambda item: bool(item.organ) and item.organ.startswith("not stated"),
        ORGAN,
        ("The organ cannot be told from this picture.",),
    ),
)


class Refusal:
    """Questions that cannot be answered."""

    task = "refuse"

    def __init__(self, stock: Stock) -> None:
        rows = [
            (reason.name, item.set, (item, reason)) for item in stock.items for reason in REASONS if reason.holds(item)
        ]
        self.rows: Balanced[tuple[Item, Reason]] = Balanced(rows)  # by reason first, then by set

    def __bool__(self) -> bool:
        return bool(self.rows)

    def make(self, rng: np.random.Generator) -> Instruction:
        """A conversation about a picture."""
        item, reason = self.rows.draw(rng)
        exchange = said(one(rng, reason.questions), one(rng, reason.answers))
        return conversation(self.task, item.set, [item.image], exchange)

    def ask(self, rng: np.random.Generator, item: Item) -> Exchange:
        """A question that `item` does not answer."""
        reason = one(rng, [reason for reason in REASONS if reason.holds(item)])
        return said(one(rng, reason.questions), one(rng, reason.answers))
