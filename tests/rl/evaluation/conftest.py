"""A copilot that answers by the colour of the picture, or anything else a test makes up; no model. And a real one over
an engine that uses tools as it should."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from slidekick.copilot import sentences
from slidekick.copilot.copilot import Copilot
from slidekick.copilot.grammar import ToolCall
from slidekick.copilot.turn import Turn
from slidekick.data.items import load_items
from slidekick.grounding.finding import Finding
from slidekick.rl.evaluation.questions import classify_questions, labels_of
from slidekick.rl.instructions.concepts import vocabulary


class FakeEngine:
    """Writes `say(words, pixels)` and weighs options by whether they are it; keeps what it was asked."""

    name, history = "fake", 0

    def __init__(self, say, sure: float = 0.9) -> None:
        self.say, self.sure, self.asked, self.written = say, sure, [], 0

    def turns(self, asked, tools, calls=None):
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

    def toolbox(self, roi):
        return SimpleNamespace(pixels=roi.pixels, unread=None)

    def ask_many(self, asked, firsts=()):
        return [self.ask(box, words) for box, words in asked]

    def ask(self, roi, question, *, box=None):
        text = self.engine.say(question, roi.pixels)
        return SimpleNamespace(text=text, steps=(), confidence=0.5, claims=(), evidence=(), warnings=())


def _words(messages) -> str:
    return messages[0]["content"][1]["text"]


def by_colour(words: str, pixels: np.ndarray) -> str:
    """The labels of the fixture's sets, which their colour tells."""
    names = ["healthy gland", "malignant gland"] if "gland" in words else ["glioma", "necrosis", "oedema"]
    return names[min(int(np.clip(round((pixels.mean() - 60) / 60), 0, 2)), len(names) - 1)]


SENTENCES = {
    "count": sentences.count_sentence,
    "segment": lambda argument, result: sentences.segment_sentence(argument, result, yes=False),
    "measure": sentences.measure_sentence,
}


class Diligent:
    """Calls what each question's truth wants and says what comes back, in the words that are taught.

    wanted: words -> (tool, argument), None for no tool. first, after: what tests put in place of its turns.
    """

    name, history = "diligent", 0

    def __init__(self, wanted: dict, first=lambda call: call, after=lambda text: text) -> None:
        self.wanted, self.first, self.after, self.turned = wanted, first, after, 0

    def turn(self, messages, image, tools, *, calls=True):
        self.turned += 1
        text = self._text(messages)
        yield text
        yield Turn(text, 0.9)

    def turns(self, asked, tools, calls=None):
        return [Turn(self._text(messages), 0.9) for messages, _ in asked]

    def _text(self, messages) -> str:
        if messages[-1]["role"] == "tool":
            call = messages[-2]["tool_calls"][0]["function"]
            result = json.loads(messages[-1]["content"])
            return self.after(SENTENCES[call["name"]](call["arguments"]["concept"], result))
        call = self.first(self.wanted[_words(messages)])
        return "This cannot be told." if call is None else ToolCall(call[0], {"concept": call[1]}).to_text()


class Dots:
    """Finds two dots of every concept that the card knows, but no gland; keeps what it was asked for."""

    vocabulary, weights = vocabulary(), None

    def __init__(self) -> None:
        self.looked = []

    def segment(self, image, concepts, *, mpp=None):
        return [self._finding(words, image) for words in concepts]

    def _finding(self, words, image) -> Finding:
        self.looked.append(words)
        ids, concept = np.zeros(image.shape[:2], np.int32), self.vocabulary.find(words)
        if concept is not None and concept.name != "gland":
            ids[2:20, 2:20], ids[25:35, 25:35] = 1, 2
        instances = ids if concept is not None and concept.kind == "object" else None
        name, nearest = (words, "gland") if concept is None else (concept.name, None)
        return Finding(name, ids > 0, 0.9, 0.9, instances, concept is not None, words, nearest)


@pytest.fixture
def diligent():
    """A copilot over `Diligent` and `Dots` that knows what the questions want."""

    def make(questions, **more) -> Copilot:
        wanted = {one.question: _wanted(one.notes) for one in questions}
        return Copilot(Diligent(wanted, **more), Dots())

    return make


def _wanted(notes) -> tuple[str, str] | None:
    return None if notes["expected_argument"] is None else (notes["expected_tool"], notes["expected_argument"])


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
