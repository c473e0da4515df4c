"""Questions with few possible answers: yes or no, one of some options, what sets note of a picture beside its label.

The public sets' closed questions are among them; they have no pictures here.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from slidekick.data.items import Item
from slidekick.rl.instructions.balance import Balanced, one
from slidekick.rl.instructions.classification import Options, YesNo
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.instructions.texts import Text
from slidekick.rl.instructions.turns import text_of
from slidekick.rl.instructions.vqa import ATTRIBUTES, facts_of
from slidekick.rl.parsing import parse
from slidekick.rl.tasks.task import Rollout, Row, Task, Truth

YES_NO = ("yes", "no")
TEXTS = 0.15  # share of questions without a picture


class Closed:
    """Yes or no, options and noted attributes, in equal parts, as far as there are any; and the texts' questions."""

    def __init__(self, stock: Stock) -> None:
        self.families = [family for family in (YesNo(stock), Options(stock)) if family]
        noted = [(item, fact) for item in stock.items for fact in facts_of(item)]
        self.noted: Balanced[tuple[Item, str, str]] = Balanced(
            (item.set, f"{name} {value}", (item, name, value)) for item, (name, value) in noted
        )
        self.values = defaultdict(set)
        for item, (name, value) in noted:
            self.values[item.set, name].add(value)
        texts = [text for text in stock.texts if text.family == "vqa" and text.label in (*YES_NO, "choice")]
        self.texts: Balanced[Text] = Balanced((text.set, text.label, text) for text in texts)

    def __bool__(self) -> bool:
        return bool(self.families or self.noted or self.texts)

    def make(self, rng: np.random.Generator) -> Row:
        """One closed question."""
        kinds = [*self.families, *[self.noted] * bool(self.noted)]
        if self.texts and (not kinds or rng.random() < TEXTS):
            text = self.texts.draw(rng)
            question, answer = one(rng, text.forms)
            return _row(text.set, question, answer, (answer,))
        kind = one(rng, kinds)
        if kind is self.noted:
            item, name, value = self.noted.draw(rng)
            values = sorted(self.values[item.set, name])
            return _row(item.set, one(rng, ATTRIBUTES[name]), value, values, item)
        item = kind.labelled.draw(rng)
        while not kind.others(item) and isinstance(kind, Options):
            item = kind.labelled.draw(rng)
        question, answer = (text_of(message) for message in kind.ask(rng, item))
        return _row(item.set, question, answer, kind.labelled.labels(item.set), item)


def _row(name: str, question: str, answer: str, options, item: Item | None = None) -> Row:
    kind = "yes_no" if answer.lower() in YES_NO else "label"
    answer = answer.lower() if kind == "yes_no" else answer
    truth = {"answer": answer, "kind": kind, "options": list(YES_NO if kind == "yes_no" else options)}
    return Row("closed_vqa", name, question, truth, () if item is None else (item.image,))


def read(rollout: Rollout, truth: Truth) -> str | None:
    """What is chosen: yes, no or one whole option, by `slidekick.rl.parsing`."""
    return parse(truth["kind"], rollout.text, truth["options"])


def score(said: str, rollout: Rollout, truth: Truth) -> dict[str, float]:
    """1 for the right one, else 0."""
    return {"score": float(said == truth["answer"])}


TASK = Task("closed_vqa", Closed, read, score)
