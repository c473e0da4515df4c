"""What the families with one tool call have in common: a picture, a word, the tool's result, and a sentence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from slidekick.data.items import Item
from slidekick.rl.instructions.balance import one
from slidekick.rl.instructions.concepts import Word
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.instructions.turns import Call, Exchange, Instruction, called, conversation
from slidekick.rl.instructions.wording import article


class ToolFamily(ABC):
    """Questions that one call of `tool` answers."""

    task = tool = ""

    def __init__(self, stock: Stock) -> None:
        self.stock = stock

    def __bool__(self) -> bool:
        return bool(self.stock.items)

    def make(self, rng: np.random.Generator) -> Instruction:
        """A conversation about any picture."""
        item, word, result = self.stock.lesson(rng, self.tool)
        return conversation(self.task, item.set, [item.image], self.exchange(rng, word, result))

    def ask(self, rng: np.random.Generator, item: Item) -> Exchange:
        """A question about `item`."""
        _, word, result = self.stock.lesson(rng, self.tool, item)
        return self.exchange(rng, word, result)

    def exchange(self, rng: np.random.Generator, word: Word, result: dict) -> Exchange:
        """Question, call and answer."""
        question, sentence = self.wording(rng, word, result)
        return called(question, [Call(self.tool, word.one, result)], sentence)

    @abstractmethod
    def wording(self, rng: np.random.Generator, word: Word, result: dict) -> tuple[str, str]:
        """The question and the sentence that answers it."""


def asked(rng: np.random.Generator, wordings: Sequence[str], word: Word) -> str:
    """One of `wordings` with the word in it; what is not counted ("stroma") in the singular and without a or an."""
    return filled(one(rng, [wording for wording in wordings if fits(wording, word)] or wordings), word)


def fits(wording: str, word: Word) -> bool:
    """Whether the word can stand in the wording: what is not counted has no plural."""
    return word.one != word.many or "{many}" not in wording


def filled(wording: str, word: Word) -> str:
    """The wording with the word in it."""
    mass = word.one == word.many
    return wording.format(one=word.one, many=word.many, a=word.one if mass else article(word.one))
