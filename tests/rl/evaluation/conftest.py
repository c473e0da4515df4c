"""A copilot that answers by the colour of the picture, or anything else a test makes up; no model."""

from types import SimpleNamespace

import numpy as np
import pytest

from slidekick.copilot.engine import Turn
from slidekick.data.items import load_items
from slidekick.rl.evaluation.questions import classify_questions, labels_of


class FakeEngine:
    """Writes `say(words, pixels)` and weighs options by whether they are it; keeps what it was asked."""

    name, history = "fake", 0

    def __init__(self, say, sure: float = 0.9) -> None:
        self.say, self.sure, self.asked, self.written = say, sure, [], 0

    def turns(self, asked, tools):
        self.written += len(asked)
        return [Turn(self.say(_words(messages), image), 0.5) for messages, image in asked]

    def options(self, messages, image, tools, options):
        self.asked.append(_words(messages))
        said = self.say(_words(messages), image)
        rest = (1 - self.sure) / len(options)
        return np.log([self.sure if option == said else rest for option in options])


class FakeCopilot:
    """What the evaluation needs of a copilot."""

    schemas, versions, confidence, weights, segmentor = (), {"slidekick": "0"}, None, "w1", None

    def __init__(self, say, sure: float = 0.9) -> None:
        self.engine = FakeEngine(say, sure)

    def ask(self, roi, question):
        text = self.engine.say(question, roi.pixels)
        return SimpleNamespace(text=text, steps=(), confidence=0.5, claims=(), evidence=())


def _words(messages) -> str:
    return messages[0]["content"][1]["text"]


def by_colour(words: str, pixels: np.ndarray) -> str:
    """The labels of the fixture's sets, which their colour tells."""
    names = ["healthy gland", "malignant gland"] if "gland" in words else ["glioma", "necrosis", "oedema"]
    return names[min(int(np.clip(round((pixels.mean() - 60) / 60), 0, 2)), len(names) - 1)]


@pytest.fixture
def fake():
    return FakeCopilot


@pytest.fixture
def colours():
    """A copilot that is always right on the labelled sets."""
    return FakeCopilot(by_colour)


@pytest.fixture
def asked(labelled) -> list:
    """The test questions of the two labelled sets, one each."""
    items = load_items(labelled, ["glas", "gbm40"])
    return classify_questions([item for item in items if item.split == "test"], labels_of(items))
