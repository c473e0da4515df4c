"""Questions answered in a few words: organ and stain of pictures, and the public sets' open ones, without pictures."""

from __future__ import annotations

import numpy as np

from slidekick.rl.instructions.balance import Balanced, one
from slidekick.rl.instructions.facts import Facts
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.instructions.texts import Text
from slidekick.rl.instructions.turns import text_of
from slidekick.rl.parsing import open_text, plain
from slidekick.rl.scores import token_f1
from slidekick.rl.tasks.saying import entity_f1
from slidekick.rl.tasks.task import Rollout, Row, Task, Truth

PICTURES = 0.5  # share with a picture, where there are both


class Open:
    """Facts of pictures, and open questions of the text sets."""

    def __init__(self, stock: Stock) -> None:
        self.facts = Facts(stock)
        texts = [text for text in stock.texts if text.family == "vqa" and text.label == "open"]
        self.texts: Balanced[Text] = Balanced((text.set, text.label, text) for text in texts)

    def __bool__(self) -> bool:
        return bool(self.facts or self.texts)

    def make(self, rng: np.random.Generator) -> Row:
        """One open question."""
        if self.facts and (not self.texts or rng.random() < PICTURES):
            made = self.facts.make(rng)
            question, answer = (text_of(message) for message in made.messages)
            return Row("open_vqa", made.set, question, {"answer": answer}, made.images)
        text = self.texts.draw(rng)
        question, answer = one(rng, text.forms)
        return Row("open_vqa", text.set, question, {"answer": answer})


def read(rollout: Rollout, truth: Truth) -> str | None:
    """The answer's words."""
    return open_text(rollout.text) and rollout.text


def score(said: str, rollout: Rollout, truth: Truth) -> dict[str, float]:
    """`saying.entity_f1`; `token_f1` beside it is what evaluation reports."""
    return {"score": entity_f1(said, truth["answer"]), "token_f1": token_f1(plain(said), plain(truth["answer"]))}


TASK = Task("open_vqa", Open, read, score)
