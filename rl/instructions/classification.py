"""What is it? Asked openly, among a few options, and as a question of yes or no with hard wrong answers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from slidekick.data.items import Item
from slidekick.data.ontology import plain
from slidekick.rl.instructions.balance import one
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.instructions.turns import Exchange, Instruction, conversation, said
from slidekick.rl.instructions.wording import GENERAL, taught

# Of what the whole picture is. Whether something is in it is another question, which the tools answer.
YES_NO = (
    "Is this {}?",
    "Would you call this {}?",
    "Is it {}, yes or no?",
    "This is {}, right?",
    "Can this be called {}?",
    "Does this count as {}?",
    "Would you diagnose {}?",
    "Is {} the diagnosis?",
    "Is the right name {}?",
    "{}: is that right?",
    "Should I call this {}?",
)
OPTIONS = ("Which is it: {}?", "Choose one: {}.", "Which of these is it: {}?", "One of these: {}.")
MOST = 4  # options offered: a list costs more than the rest of the question
NEAREST, SAME_SET = 0.6, 0.85  # wrong answers: the most alike of the set's labels; any of them; of another set


class _Labelled(ABC):
    task = ""

    def __init__(self, stock: Stock) -> None:
        self.stock, self.labelled = stock, stock.labelled

    def __bool__(self) -> bool:
        return bool(self.labelled)

    def make(self, rng: np.random.Generator) -> Instruction:
        """A conversation about a labelled picture."""
        item = self.labelled.draw(rng)
        return conversation(self.task, item.set, [item.image], self.ask(rng, item))

    @abstractmethod
    def ask(self, rng: np.random.Generator, item: Item) -> Exchange:
        """The family's question about `item`."""

    def others(self, item: Item) -> list[str]:
        """The other labels of the item's set."""
        return [label for label in self.labelled.labels(item.set) if label != item.label]


class Classification(_Labelled):
    """The open question, most often in the wording that evaluation asks."""

    task = "classify"

    def ask(self, rng: np.random.Generator, item: Item) -> Exchange:
        """An eighth in general wordings, which several sets answer in different words; a third in the set's first."""
        roll, own = rng.random(), taught(item.set)
        return said(one(rng, GENERAL) if roll < 0.12 else own[0] if roll < 0.45 else one(rng, own), item.label)


class Options(_Labelled):
    """The same with up to four of the set's labels to choose from."""

    task = "options"

    def __bool__(self) -> bool:
        return any(len(self.labelled.labels(name)) > 1 for name in self.labelled.sets)

    def make(self, rng: np.random.Generator) -> Instruction:
        """A set with one label alone offers nothing to choose from."""
        item = self.labelled.draw(rng)
        while not self.others(item):
            item = self.labelled.draw(rng)
        return conversation(self.task, item.set, [item.image], self.ask(rng, item))

    def ask(self, rng: np.random.Generator, item: Item) -> Exchange:
        """The right label and others of the set, in any order."""
        chosen = [item.label, *rng.permutation(self.others(item))[: MOST - 1]]
        offered = ", ".join(str(label) for label in rng.permutation(chosen))
        return said(one(rng, OPTIONS).format(offered), item.label)


class YesNo(_Labelled):
    """Whether it is what the question names; half of the answers are yes."""

    task = "yes_no"

    def ask(self, rng: np.random.Generator, item: Item) -> Exchange:
        """Wrong names are mostly the set's label that is most like the right one."""
        wrong = self.wrong(rng, item)
        true = wrong is None or rng.random() < 0.5
        return said(one(rng, YES_NO).format(item.label if true else wrong), "yes" if true else "no")

    def wrong(self, rng: np.random.Generator, item: Item) -> str | None:
        """A label that the picture does not have; None where all have the same."""
        own, roll = self.others(item), rng.random()
        if own and roll < SAME_SET:
            return nearest(rng, item.label, own) if roll < NEAREST else one(rng, own)
        elsewhere = [s for s in self.labelled.sets if s != item.set]
        strange = [label for s in elsewhere for label in self.labelled.labels(s) if not alike(label, item.label)]
        return one(rng, strange or own) if strange or own else None


def nearest(rng: np.random.Generator, label: str, others: list[str]) -> str:
    """Of `others` one that shares the most words with `label`."""
    common = [len(_words(label) & _words(other)) for other in others]
    return one(rng, [other for other, number in zip(others, common, strict=True) if number == max(common)])


def alike(first: str, second: str) -> bool:
    """Whether two labels of different sets share a word, so that both may be right."""
    return bool(_words(first) & _words(second))


def _words(label: str) -> set[str]:
    return set(plain(label).split()) - {"of", "the", "or", "and", "with", "to", "cell", "tissue"}
