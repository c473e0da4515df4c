"""Two regions side by side: two pictures in one question, or two areas of one picture by tool.

Pictures are compared by what their labels, stains and pairs say; areas by calling `segment` for each concept.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from slidekick.copilot.sentences import capital, covers_sentence, missing_sentence
from slidekick.data.items import Item
from slidekick.rl.instructions.balance import Balanced, one
from slidekick.rl.instructions.concepts import Word, draw_phrasing, names
from slidekick.rl.instructions.stock import Stock, known_stain
from slidekick.rl.instructions.turns import Call, Exchange, Instruction, called, conversation, said

ALIKE = ("Do both pictures show the same?", "Are these two the same?", "Same diagnosis in both?", "Same kind in both?")
WHICH = (
    "Which picture shows {}, the first or the second?",
    "First or second: which is {}?",
    "Where is {}: first or second?",
)
STAINS = ("How are the two stained?", "Name both stains.", "Which stains are these, first and second?")
SECTIONS = ("Are both sections of the same tissue?", "Do both pictures show the same place?", "Same block in both?")
MORE = (
    "Which covers more, {a} or {b}?",
    "Compare the areas of {a} and {b}.",
    "{a} or {b}: which covers more?",
    "What takes more of the picture, {a} or {b}?",
)
BY_TOOL = 0.4  # share of two areas in one picture


class Comparison:
    """Same or not, which of the two, two stains, two areas."""

    task = "compare"

    def __init__(self, stock: Stock) -> None:
        self.stock = stock
        labelled = [name for name in stock.labelled.sets if len(stock.labelled.labels(name)) > 1]
        pairs = _pairs(stock.items)
        self.pairs: Balanced[list[Item]] = Balanced((group[0].set, group[0].pair, group) for group in pairs)
        self.labelled: Balanced[Item] = Balanced(
            (name, label, item)
            for name in labelled
            for label, rows in stock.labelled.rows[name].items()
            for item in rows
        )

    def __bool__(self) -> bool:
        return bool(self.stock.items)

    def make(self, rng: np.random.Generator) -> Instruction:
        """Areas of any picture, or two pictures of one set."""
        roll = rng.random()
        if roll < BY_TOOL or not (self.labelled or self.pairs):
            return self._areas(rng)
        if self.labelled and (not self.pairs or roll < 0.85):
            return self._labels(rng)
        return self._sections(rng)

    def _labels(self, rng: np.random.Generator) -> Instruction:
        first = self.labelled.draw(rng)
        rows = self.labelled.rows[first.set]
        label = one(rng, [label for label in self.labelled.labels(first.set) if label != first.label])
        if rng.random() < 0.5:
            same = [item for item in rows[first.label] if item.image != first.image]
            second = one(rng, same) if same and rng.random() < 0.5 else one(rng, rows[label])
            exchange = said(one(rng, ALIKE), "yes" if second.label == first.label else "no")
        else:
            second = one(rng, rows[label])
            asked, answer = one(rng, [(first.label, "the first"), (second.label, "the second")])
            exchange = said(one(rng, WHICH).format(asked), answer)
        return conversation(self.task, first.set, [first.image, second.image], exchange)

    def _sections(self, rng: np.random.Generator) -> Instruction:
        """Two pictures of a set of pairs: their stains, or whether they are sections of one tissue."""
        group = self.pairs.draw(rng)
        first, second = (group[index] for index in rng.permutation(len(group))[:2])
        others = [pair for pair in self.pairs.labels(first.set) if pair != first.pair]
        stains = [known_stain(first), known_stain(second)]
        if all(stains) and (not others or rng.random() < 0.5):
            exchange = said(one(rng, STAINS), f"{stains[0]} and {stains[1]}")
        else:
            if others and rng.random() < 0.5:
                second = one(rng, one(rng, self.pairs.rows[first.set][one(rng, others)]))
            exchange = said(one(rng, SECTIONS), "yes" if second.pair == first.pair else "no")
        return conversation(self.task, first.set, [first.image, second.image], exchange)

    def _areas(self, rng: np.random.Generator) -> Instruction:
        item = self.stock.pictures.draw(rng)
        return conversation(self.task, item.set, [item.image], self.ask(rng, item))

    def ask(self, rng: np.random.Generator, item: Item) -> Exchange:
        """Two areas of `item`, both of concepts that it is known to hold where there are two."""
        words = self.stock.shown(rng, item, 2)
        others = rng.permutation([name for name in names() if name not in {word.concept for word in words}])
        words += [draw_phrasing(rng, str(name)) for name in others[: 2 - len(words)]]
        calls = [self._call(rng, item, word) for word in words]
        question = one(rng, MORE).format(a=words[0].many, b=words[1].many)
        return called(question[0].upper() + question[1:], calls, compare_sentences(*calls))

    def _call(self, rng: np.random.Generator, item: Item, word: Word) -> Call:
        return Call("segment", word.one, self.stock.result(rng, "segment", item, word.concept))


def compare_sentences(first: Call, second: Call) -> str:
    """What is said after `segment` was called for two concepts: each area, and which covers more."""
    each = " ".join(
        missing_sentence(c.concept, c.result) or covers_sentence(c.concept, c.result) for c in (first, second)
    )
    more = max((first, second), key=share)
    same = share(first) == share(second)
    return each if same else f"{each} {capital(more.concept)} covers more."


def share(call: Call) -> float:
    """The covered area that a result tells, in per cent; 0 where nothing was found."""
    area = call.result.get("area", "0%")
    return 0.5 if area.startswith("<") else float(area.rstrip("%"))


def _pairs(items: list[Item]) -> list[list[Item]]:
    """Pictures that are paired, two and more of a pair."""
    groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        if item.pair:
            groups[item.set, item.pair].append(item)
    return [group for group in groups.values() if len(group) > 1]
