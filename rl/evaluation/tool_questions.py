"""Questions that want a tool, or want none, about held-out pictures: what `slidekick evaluate tools` asks.

Tools, wordings (taught and new), words (a concept's name, a synonym, words that the segmentor does not know) and sets
take turns, so that any first part of the list is balanced too; pictures that hold the concept are preferred, so that
most calls find something. No chance but that of a fixed seed: the same pictures give the same questions. What a tool
finds is not judged here; the other families do that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar

import numpy as np

from slidekick.data.items import Item
from slidekick.rl.evaluation import tool_wordings as new
from slidekick.rl.evaluation.questions import Question, is_labelled, question_of
from slidekick.rl.instructions import GENERAL, question_for
from slidekick.rl.instructions.classification import YES_NO
from slidekick.rl.instructions.concepts import Word, names, phrasings, strangers
from slidekick.rl.instructions.counting import COUNT
from slidekick.rl.instructions.detection import BY_TOOL
from slidekick.rl.instructions.lessons import filled, fits
from slidekick.rl.instructions.measuring import MEASURE
from slidekick.rl.instructions.refusal import REASONS, Reason
from slidekick.rl.instructions.segmentation import THERE, WHERE
from slidekick.rl.instructions.stock import is_tissue, known_organ, known_stain
from slidekick.rl.instructions.truth import Truths
from slidekick.rl.instructions.wording import ORGAN, STAIN

T = TypeVar("T")

MOST = 360  # questions asked where no limit is given: 90 for each tool and for none
PICTURES = 5  # of a set: several questions share what the segmentor sees of one
SEED = 7
NO_TOOL = "none"
EXPECTED = ("count", "segment", "measure", NO_TOOL)
TAUGHT, NEW = "taught", "new"
# tool -> its wordings, taught and new
WORDINGS = {
    "count": {TAUGHT: COUNT, NEW: new.COUNT},
    "segment": {TAUGHT: (*THERE, *WHERE, *BY_TOOL), NEW: new.SEGMENT},
    "measure": {TAUGHT: MEASURE, NEW: new.MEASURE},
}
# Kinds of words, in turn: a third of the questions is about words outside the vocabulary, half of them never taught.
NAME, SYNONYM, OUTSIDE, NEW_WORD = "name", "synonym", "outside", "outside, new"
WORDS = (NAME, SYNONYM, OUTSIDE, NAME, SYNONYM, NEW_WORD)
NOT_SHOWN = 3  # every so many-th question about a known word is put to any picture


@dataclass(frozen=True)
class _Plain:
    """A kind of question that wants no tool: of which pictures, and in which words ({}: a label)."""

    holds: Callable[[Item], bool]
    taught: tuple[str, ...]
    new: tuple[str, ...]


# Taught wordings of labels are the sets' own; taught refusals come with what they hold of.
PLAIN = {
    "label": _Plain(is_labelled, (), new.LABEL),
    "stain": _Plain(lambda item: known_stain(item) is not None, STAIN, new.STAIN),
    "refuse": _Plain(lambda item: True, (), new.REFUSE),
    "organ": _Plain(lambda item: known_organ(item) is not None, ORGAN, new.ORGAN),
    "yes or no": _Plain(is_labelled, YES_NO, new.YES_NO),
    "general": _Plain(is_labelled, GENERAL, new.LABEL),
}


def tool_questions(items: Sequence[Item], most: int | None = None) -> list[Question]:
    """At most `most` (360) questions about `items`, those about one picture together.

    Each one's truth is the call that it wants ("count(gland)", "none"); its notes hold the columns `expected_tool`,
    `expected_argument`, `asked_word`, `word` (its kind), `wording` ("taught" or "new") and `template`.
    """
    pictures = [item for item in items if is_tissue(item)]
    if not pictures:
        return []
    maker, made = _Maker(pictures), {}
    for number in range(MOST if most is None else most):
        tool, wording = EXPECTED[number % len(EXPECTED)], (TAUGHT, NEW)[number // len(EXPECTED) % 2]
        one = maker.plain(wording) if tool == NO_TOOL else maker.call(tool, wording)
        made[one.id] = one  # few pictures can give the same question twice
    return sorted(made.values(), key=lambda one: (one.set, one.id))


class _Maker:
    """Draws in turn from queues: what was used goes to the end, so that nothing is used twice before all were once."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.rng = np.random.default_rng(SEED)
        self.pictures = self._pictures(items)
        showing = Truths(list(self.pictures)).showing
        self.showing = {concept: {(t.item.set, t.item.id) for t in rows} for concept, rows in showing.items()}
        self.words = self._words()
        self.wordings = {
            (tool, wording): self._queue(listed) for tool, both in WORDINGS.items() for wording, listed in both.items()
        }
        kinds = {name: kind for name, kind in PLAIN.items() if any(map(kind.holds, self.pictures))}
        self.kinds = {wording: deque(kinds) for wording in (TAUGHT, NEW)}
        for name, kind in kinds.items():
            self.wordings |= {(name, TAUGHT): self._queue(kind.taught), (name, NEW): self._queue(kind.new)}
        self.refusals = self._queue([(reason, words) for reason in REASONS for words in reason.questions])
        self.turn: dict[tuple[str, str], int] = dict.fromkeys(self.wordings, 0)

    def call(self, tool: str, wording: str) -> Question:
        """A question that wants `tool`."""
        turn = self.turn[tool, wording]
        self.turn[tool, wording] += 1
        kind = WORDS[turn % len(WORDS)]
        word = _next(self.words[kind], lambda one: tool != "count" or one.one != one.many)
        template = _next(self.wordings[tool, wording], lambda one: fits(one, word))
        shown = self.showing.get(word.concept) if turn % NOT_SHOWN else None
        item = _next(self.pictures, lambda one: not shown or (one.set, one.id) in shown)
        notes = {"expected_tool": tool, "expected_argument": word.concept, "asked_word": word.one, "word": kind}
        return _question(item, filled(template, word), notes | {"wording": wording, "template": template})

    def plain(self, wording: str) -> Question:
        """A question that wants no tool."""
        kind = _next(self.kinds[wording])
        item, template = self._refused() if (kind, wording) == ("refuse", TAUGHT) else self._read(kind, wording)
        words = template.format(self._label(item)) if "{}" in template else template
        notes = {"expected_tool": NO_TOOL, "expected_argument": None, "asked_word": None, "word": kind}
        return _question(item, words, notes | {"wording": wording, "template": template})

    def _read(self, kind: str, wording: str) -> tuple[Item, str]:
        item = _next(self.pictures, PLAIN[kind].holds)
        own = (kind, wording) == ("label", TAUGHT)
        return item, question_for(item) if own else _next(self.wordings[kind, wording])

    def _refused(self) -> tuple[Item, str]:
        reason: Reason
        reason, words = _next(self.refusals, lambda one: any(map(one[0].holds, self.pictures)))
        return _next(self.pictures, reason.holds), words

    def _label(self, item: Item) -> str:
        """The picture's label or another of its set."""
        labels = sorted({one.label for one in self.pictures if one.set == item.set and one.label})
        return labels[self.rng.integers(len(labels))]

    def _pictures(self, items: Sequence[Item]) -> deque[Item]:
        """The first few of each set after shuffling, one of each set after the other."""
        sets: dict[str, list[Item]] = {}
        for item in self._queue(sorted(items, key=lambda one: (one.set, one.id))):
            sets.setdefault(item.set, []).append(item)
        parts = [sets[name][:PICTURES] for name in sorted(sets)]
        return deque(item for row in zip_longest(*parts) for item in row if item is not None)

    def _words(self) -> dict[str, deque[Word]]:
        concepts = self._queue(names())
        synonyms = zip_longest(*(self._queue(phrasings(concept)[1:]) for concept in concepts))
        return {
            NAME: deque(phrasings(concept)[0] for concept in concepts),
            SYNONYM: deque(word for row in synonyms for word in row if word is not None),
            OUTSIDE: self._queue(strangers()),
            NEW_WORD: self._queue(new.new_words()),
        }

    def _queue(self, listed: Sequence[T]) -> deque[T]:
        return deque(listed[index] for index in self.rng.permutation(len(listed)))


def _next(queue: deque[T], holds: Callable[[T], bool] = lambda _: True) -> T:
    """The first that holds; it goes to the end."""
    found = next(index for index, one in enumerate(queue) if holds(one))
    one = queue[found]
    del queue[found]
    queue.append(one)
    return one


def _question(item: Item, words: str, notes: dict) -> Question:
    expected, argument = notes["expected_tool"], notes["expected_argument"]
    truth = expected if argument is None else f"{expected}({argument})"
    return question_of(item, "tools", "text", words, truth, words, notes=notes)
