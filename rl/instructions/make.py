"""How many conversations of which family: the shares, and the making. Deterministic in the seed.

The rule: each family gets its share of the count, to the conversation; within a family a set is drawn with the root of
its number of rows, then a label of the set, then a row, so that neither large sets nor common labels crowd out the
others. Families without anything to draw from hand their share on to the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.items import Item
from slidekick.rl.instructions.classification import Classification, Options, YesNo
from slidekick.rl.instructions.comparison import Comparison
from slidekick.rl.instructions.counting import Counting
from slidekick.rl.instructions.description import Description
from slidekick.rl.instructions.detection import Detection
from slidekick.rl.instructions.dialogue import Dialogue
from slidekick.rl.instructions.facts import Facts
from slidekick.rl.instructions.measuring import Measuring
from slidekick.rl.instructions.refusal import Refusal
from slidekick.rl.instructions.report import Report
from slidekick.rl.instructions.segmentation import Segmentation
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.instructions.texts import Text
from slidekick.rl.instructions.turns import Instruction
from slidekick.rl.instructions.vqa import Vqa

log = logging.getLogger(__name__)

# Classes need steps: naming what is seen is learnt slowly, the tools' few sentences fast.
SHARES = {
    "classify": 0.4,
    "yes_no": 0.08,
    "options": 0.05,
    "facts": 0.04,
    "count": 0.06,
    "segment": 0.08,
    "measure": 0.04,
    "detect": 0.04,
    "compare": 0.04,
    "describe": 0.04,
    "report": 0.04,
    "vqa": 0.04,
    "refuse": 0.03,
    "dialogue": 0.02,
}


class Family(Protocol):
    """A family of questions: made once over a stock, false where there is nothing to ask about."""

    task: str

    def __init__(self, stock: Stock) -> None: ...

    def __bool__(self) -> bool: ...

    def make(self, rng: np.random.Generator) -> Instruction:
        """One conversation."""
        ...


FAMILIES: dict[str, type[Family]] = {
    family.task: family
    for family in (
        Classification, YesNo, Options, Facts, Counting, Segmentation, Measuring,
        Detection, Comparison, Description, Report, Vqa, Refusal, Dialogue,
    )
}  # fmt: skip


def make_instructions(
    items: Sequence[Item],
    count: int,
    seed: int,
    shares: Mapping[str, float] | None = None,
    texts: Sequence[Text] = (),
) -> list[Instruction]:
    """`count` conversations over training pictures and texts, in an order drawn by chance.

    shares: family -> share, in place of the default's; they need not sum to 1. Raises InputError where no family with
    a share has anything to draw from.
    """
    rng = np.random.default_rng(seed)
    stock, wanted = Stock(items, texts), {**SHARES, **(shares or {})}
    families = {name: FAMILIES[name](stock) for name, share in wanted.items() if share > 0}
    ready = {name: family for name, family in families.items() if family}
    if not ready:
        raise InputError(
            f"no picture and no text to ask about for {', '.join(families) or 'any family'}; give labelled sets"
        )
    if idle := sorted(set(families) - set(ready)):
        log.warning("nothing to draw from for %s; their share goes to the other families", ", ".join(idle))
    counts = quotas({name: wanted[name] for name in ready}, count)
    order = rng.permutation([name for name, number in counts.items() for _ in range(number)])
    return [ready[name].make(rng) for name in order]


def quotas(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """Whole numbers that sum to `count` in the proportion of `shares` (largest remainders)."""
    exact = {name: count * share / sum(shares.values()) for name, share in shares.items()}
    numbers = {name: int(value) for name, value in exact.items()}
    left = sorted(exact, key=lambda name: numbers[name] - exact[name])[: count - sum(numbers.values())]
    return {name: number + (name in left) for name, number in numbers.items()}
