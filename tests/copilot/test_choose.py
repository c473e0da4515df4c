"""Choosing among given answers: the likeliest one, with how likely each is and when it should not be relied on."""

import json
from importlib import resources

import jsonschema
import numpy as np
import pytest

from slidekick.copilot.answer import MAX_OPTIONS, Answer
from slidekick.copilot.confidence import NEVER, Confidence
from slidekick.copilot.copilot import UNSURE, Copilot
from slidekick.copilot.engine import TorchEngine
from slidekick.data.errors import InputError

OPTIONS = ("gland", "tumour", "normal colon")


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
