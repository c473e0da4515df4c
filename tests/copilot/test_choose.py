"""Choosing among given answers: the likeliest one, with how likely each is and when it should not be relied on."""

import json
from importlib import resources

import jsonschema
import numpy as np
import pytest

from slidekick.copilot.answer import MAX_OPTIONS, Answer
from slidekick.copilot.confidence import NEVER, Confidence
from slidekick.copilot.copilot import READING, UNSURE, Copilot
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.copilot.turn import Turn
from slidekick.data.errors import InputError

OPTIONS = ("gland", "tumour", "normal colon")


def asked(words):
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": words}]}]


@pytest.fixture(scope="module")
def engine(tiny):
    return TorchEngine(*tiny, name="tiny", max_new_tokens=8)


def test_the_likeliest_option_is_the_answer_and_all_are_told(engine, roi):
    answer = Copilot(engine, None).choose(roi, "Which is it?", OPTIONS)
    assert set(answer.options) == set(OPTIONS)
    assert sum(answer.options.values()) == pytest.approx(1, abs=1e-3)
    assert answer.text == max(answer.options, key=answer.options.get)
    assert answer.confidence == answer.options[answer.text]
    assert [(claim.kind, claim.supported) for claim in answer.claims] == [("reading", True)]
    schema = json.loads(resources.files("slidekick.copilot").joinpath("answer.schema.json").read_text())
    jsonschema.validate(answer.to_dict(), schema)
    assert Answer.from_dict(answer.to_dict()) == answer


def test_the_fitted_temperature_and_threshold_are_used(engine, roi):
    plain = Copilot(engine, None).choose(roi, "Which is it?", OPTIONS)
    fitted = Confidence(temperature=4.0, threshold=NEVER, risk=0.1)
    cooled = Copilot(engine, None, confidence=fitted).choose(roi, "Which is it?", OPTIONS)
    logits = np.log(list(plain.options.values()))
    expected = np.exp(logits / 4) / np.exp(logits / 4).sum()
    np.testing.assert_allclose(list(cooled.options.values()), expected, atol=0.01)
    assert UNSURE.format(0.1) in cooled.warnings
    assert not any("unsure" in warning for warning in plain.warnings)


def test_what_the_picture_is_alike_counts_where_that_was_fitted(engine, roi):
    alike = engine.likeness(roi.pixels, OPTIONS)
    assert alike.shape == (3,)
    assert (np.abs(alike) <= 1).all()
    fitted = Confidence(temperature=20.0, likeness=10.0)
    copilot = Copilot(engine, None, confidence=fitted)
    answer = copilot.choose(roi, "Which is it?", OPTIONS)
    logits = engine.options(asked("Which is it?"), roi.pixels, copilot.schemas, OPTIONS)
    np.testing.assert_allclose(list(answer.options.values()), fitted.probabilities(logits, alike), atol=1e-4)
    blind = Copilot(engine, None, confidence=Confidence(temperature=1e9, likeness=100.0))
    for words in ("Which is it?", "Name what is shown here."):
        assert blind.choose(roi, words, OPTIONS).text == OPTIONS[int(alike.argmax())]


def test_an_open_answer_that_was_taught_gives_way_to_the_likeliest_of_its_rivals(engine, roi):
    class Saying(TorchEngine):
        def turn(self, messages, image, tools, *, calls=True):
            yield self.says
            yield Turn(self.says, 0.9, likelihood=0.9)

    saying = Saying(engine.model, engine.processor)
    copilot = Copilot(saying, None, confidence=Confidence(threshold=NEVER, risk=0.1, readings=(OPTIONS,)))
    saying.says = "gland"
    open_, chosen = copilot.ask(roi, "What is this?"), copilot.choose(roi, "What is this?", OPTIONS)
    assert (open_.text, open_.options, open_.confidence) == (chosen.text, chosen.options, chosen.confidence)
    assert {READING, UNSURE.format(0.1)} <= set(open_.warnings)
    saying.says = "a text that was never taught"
    other = copilot.ask(roi, "What is this?")
    assert (other.text, other.options) == (saying.says, {})


def test_the_order_of_options_does_not_matter(engine, roi):
    copilot = Copilot(engine, None)
    there, back = (copilot.choose(roi, "Which is it?", order) for order in (OPTIONS, OPTIONS[::-1]))
    assert there.text == back.text
    assert there.options == pytest.approx(back.options, abs=1e-3)


@pytest.mark.parametrize(
    "options",
    ["gland", ["gland"], ["gland", " gland "], ["gland", ""], ["gland", "?!"], ["gland", "x" * 201], ["gland", 3],
     [str(n) for n in range(MAX_OPTIONS + 1)]],
)  # fmt: skip
def test_options_that_cannot_be_told_apart_or_read_are_refused(engine, roi, options):
    with pytest.raises(InputError, match="option"):
        Copilot(engine, None).choose(roi, "Which is it?", options)


def test_a_model_that_cannot_weigh_answers_is_named(scripted, roi):
    with pytest.raises(InputError, match="does not weigh"):
        Copilot(scripted(), None).choose(roi, "Which is it?", OPTIONS)
