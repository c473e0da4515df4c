"""One temperature mends what is too sure; a threshold keeps the error among the answers given within the risk."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from slidekick.copilot.confidence import (
    FILE,
    NEVER,
    Confidence,
    choose_threshold,
    fit_confidence,
    fit_scale,
    load_confidence,
    most_wrong,
    softmax,
)
from slidekick.data.errors import InputError


def drawn(temperature: float, n: int = 4000):
    """Items whose truth is drawn from their logits at a temperature, with 3 to 5 options."""
    rng = np.random.default_rng(0)
    logits = [rng.normal(0, 3, rng.integers(3, 6)) for _ in range(n)]
    return logits, [rng.choice(len(row), p=softmax(row / temperature)) for row in logits]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_truth_is_found(temperature):
    assert fit_scale(*drawn(temperature)) == (pytest.approx(temperature, rel=0.1), 0)


def test_the_weight_of_the_likeness_that_made_the_truth_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (6000, 4))
    alike = rng.normal(0, 0.1, (6000, 4))
    for weight in (0.0, 20.0):
        made = Confidence(2.0, likeness=weight)
        truth = [rng.choice(4, p=made.probabilities(*both)) for both in zip(logits, alike, strict=True)]
        temperature, found = fit_scale(logits, truth, alike)
        assert temperature == pytest.approx(2.0, rel=0.15)
        assert found == pytest.approx(weight, rel=0.15, abs=0.6)


def test_without_a_weight_the_likeness_changes_nothing():
    table = Confidence(2.0).probabilities([0.0, -3.0])
    np.testing.assert_array_equal(Confidence(2.0).probabilities([0.0, -3.0], [0.1, 0.9]), table)
    assert Confidence(2.0, likeness=10).probabilities([0.0, -3.0], [0.1, 0.9])[1] > 0.5


def test_rivals_are_what_excludes_a_reading_and_of_several_questions_all():
    known = Confidence(readings=(("gland", "stroma"), ("fat", "gland")))
    assert known.rivals("gland") == ("gland", "stroma", "fat")
    assert known.rivals("fat") == ("fat", "gland")
    assert known.rivals("There are 3 glands.") == ()


def test_no_items_are_no_fit():
    with pytest.raises(ValueError, match="no items"):
        fit_scale([], [])


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=6), st.floats(0.1, 10))
def test_probabilities_add_up_and_keep_their_order(logits, temperature):
    table = Confidence(temperature).probabilities(logits)
    assert table.sum() == pytest.approx(1)
    assert table[int(np.argmax(logits))] == table.max()


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.4, 0.6, 0.8]), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=60)
def test_the_threshold_keeps_to_the_risk_and_no_lower_one_does(answers):
    confidence, correct = (np.array(column) for column in zip(*answers, strict=True))
    threshold = choose_threshold(confidence, correct, 0.25)

    def most(level):
        given = confidence >= level
        return most_wrong(int((given & ~correct).sum()), int(given.sum()))

    if threshold != NEVER:
        assert most(threshold) <= 0.25
        assert 1 - correct[confidence >= threshold].mean() < 0.25
    assert all(most(level) > 0.25 for level in confidence[confidence < threshold])


@given(st.integers(1, 300), st.data())
def test_the_bound_lies_above_what_was_seen_and_falls_with_the_number(n, data):
    wrong = data.draw(st.integers(0, n))
    assert wrong / n < most_wrong(wrong, n) <= 1 or wrong == n
    if wrong < n:
        assert most_wrong(wrong * 10, n * 10) < most_wrong(wrong, n)
        # what the bound says: with it as the true share, so few are seen one time in twenty
        seen = binom.cdf(wrong, n, most_wrong(wrong, n))
        assert seen == pytest.approx(0.05, abs=1e-6)


def test_a_model_that_knows_nothing_abstains():
    fitted = fit_confidence([[0.0, 0.0]] * 8, [1] * 8, [(0.5, False)] * 8, 0.1, "w")
    assert fitted.threshold == fitted.turn_threshold == NEVER


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_turns_are_told_as_likely_as_they_were_right(temperature):
    rng = np.random.default_rng(5)
    told = rng.uniform(0.02, 0.98, 4000)
    true = [Confidence(turn_temperature=temperature).of_turn(p) for p in told]
    right = rng.random(len(told)) < true
    fitted = fit_confidence([[0.0, 1.0]], [1], list(zip(told, right, strict=True)), 0.1, "w")
    assert fitted.turn_temperature == pytest.approx(temperature, rel=0.12)
    assert [fitted.of_turn(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0, 0.5, 1], abs=1e-3)
    given = np.array([fitted.of_turn(p) for p in told]) >= fitted.turn_threshold
    assert given.any() == (temperature < 3), "at 3 the surest is right four times in five"
    assert not given.any() or 1 - right[given].mean() < 0.1


def test_what_is_saved_is_read_for_the_same_weights_only(tmp_path):
    logits, truth = drawn(2.0, 200)
    alike, turns = [[0.0] * len(row) for row in logits], [(0.7, True), (0.2, False)]
    saved = fit_confidence(logits, truth, turns, 0.1, "abc", alike, [("gland", "stroma")])
    assert load_confidence(tmp_path, "abc") is None
    saved.save(tmp_path)
    assert load_confidence(tmp_path, "abc") == saved
    assert load_confidence(tmp_path, "other") is None


@pytest.mark.parametrize("content", ["", "[]", '{"schema": "other"}', '{"schema": "slidekick.confidence/1", "x": 1}',
                                     '{"schema": "slidekick.confidence/1", "temperature": 0}',
                                     '{"schema": "slidekick.confidence/1", "readings": 3}'])  # fmt: skip
def test_a_broken_file_is_told_in_one_line(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(InputError, match=FILE) as told:
        load_confidence(tmp_path)
    assert "\n" not in str(told.value)


def test_the_file_is_plain_json(tmp_path):
    Confidence(1.5, 0.4, 0.1, 12, "abc").save(tmp_path)
    assert json.loads((tmp_path / FILE).read_text())["temperature"] == 1.5


@pytest.mark.parametrize(
    ("logits", "turns", "named"), [([], [(0.5, True)], "no items"), ([[0.0, 1.0]], [], "own words")]
)
def test_nothing_to_fit_on_is_told_in_one_line(logits, turns, named):
    with pytest.raises(InputError, match=named):
        fit_confidence(logits, [0] * len(logits), turns, 0.1, "w")
