"""Scores against their definitions, against scikit-learn, and against tricks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from slidekick.rl import scores

CORNER, SIDE = st.integers(0, 60), st.integers(1, 40)
BOX = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), CORNER, CORNER, SIDE, SIDE)
WORDS = st.lists(st.sampled_from(["tumour", "of", "the", "colon", "gland"]), max_size=8).map(" ".join)
ANSWERS = st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.9]), st.booleans()), min_size=1, max_size=30)


@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
@settings(max_examples=30)
def test_auc_is_that_of_scikit_learn(seed, classes):
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), rng.integers(classes, size=20)])
    probability = rng.dirichlet(np.ones(classes), len(truth)).round(1) + 1e-3
    probability /= probability.sum(1, keepdims=True)
    expected = np.mean([roc_auc_score(truth == k, probability[:, k]) for k in range(classes)])
    assert scores.macro_auc(truth, probability) == pytest.approx(expected)


def test_auc_of_one_class_is_undefined():
    assert math.isnan(scores.macro_auc(np.zeros(3, int), np.full((3, 2), 0.5)))


def test_unreadable_answers_lower_f1():
    truth = ["a", "a", "b", "b"]
    assert scores.macro_f1(truth, truth) == 1
    assert scores.macro_f1(truth, ["a", None, "b", "b"]) == pytest.approx((2 / 3 + 1) / 2)
    assert scores.macro_f1(truth, [None] * 4) == 0


@given(st.lists(BOX, max_size=5, unique=True))
def test_the_true_boxes_are_perfect_and_both_empty_is_right(boxes):
    assert scores.average_precision_50(boxes, boxes) == pytest.approx(1)
    assert scores.average_precision_50(None, boxes) == 0
    assert scores.average_precision_50([], boxes) == float(not boxes)


@given(st.lists(BOX, min_size=1, max_size=4, unique=True), BOX, st.integers(0, 3))
def test_repeating_a_box_wins_nothing(said, truth, which):
    again = [*said, said[which % len(said)]]
    assert scores.average_precision_50(again, [truth]) <= scores.average_precision_50(said, [truth]) + 1e-12


def test_a_false_box_first_costs_more_than_last():
    truth, false = [(0, 0, 10, 10)], (50, 50, 60, 60)
    assert scores.average_precision_50([*truth, false], truth) == 1
    assert scores.average_precision_50([false, *truth], truth) == 0.5


def test_counts_that_could_not_be_read_are_wrong_even_where_there_is_nothing():
    assert scores.count_error(None, 12) == 12
    assert scores.count_error(None, 0) == 1
    assert scores.relative_error(None, 12) == 1
    assert scores.relative_error(0, 0) == 0
    assert scores.relative_error(3, 2) == 0.5


def test_kappa_counts_how_far_and_punishes_the_unreadable():
    truth = [0, 1, 2, 3, 3]
    assert scores.quadratic_kappa(truth, truth, 4) == 1
    near, far = [1, 1, 2, 3, 3], [3, 1, 2, 3, 3]
    assert 1 > scores.quadratic_kappa(truth, near, 4) > scores.quadratic_kappa(truth, far, 4)
    assert scores.quadratic_kappa(truth, [None, 1, 2, 3, 3], 4) == scores.quadratic_kappa(truth, far, 4)


@given(WORDS, WORDS)
def test_repeating_a_word_never_wins(said, truth):
    for word in said.split():
        assert scores.token_f1(f"{said} {word}", truth) <= scores.token_f1(said, truth) + 1e-12


@given(WORDS)
def test_the_true_words_are_perfect_for_rouge(text):
    assert scores.rouge_l(text, text) == 1
    assert scores.rouge_l(None, text) == float(not text)


def test_rouge_wants_the_order():
    assert scores.rouge_l("a b c", "a b d") == pytest.approx(2 / 3)
    assert scores.rouge_l("c b a", "a b c") == pytest.approx(1 / 3)


@given(ANSWERS)
def test_selective_scores_are_of_the_curve(answers):
    confidence, correct = (np.array(column, float) for column in zip(*answers, strict=True))
    coverage, risk = scores.risk_coverage(confidence, correct)
    assert coverage[-1] == 1
    assert risk[-1] == pytest.approx(1 - correct.mean())
    assert 0 <= scores.aurc(confidence, correct) <= 1
    at = scores.coverage_at_risk(confidence, correct, 0.2)
    kept = [confidence >= level for level in set(confidence) if 1 - correct[confidence >= level].mean() <= 0.2 + 1e-9]
    assert at == pytest.approx(max((one.mean() for one in kept), default=0.0)), "the same by trying every threshold"


@given(ANSWERS, st.randoms())
def test_the_order_of_items_does_not_matter(answers, random):
    shuffled = answers[:]
    random.shuffle(shuffled)
    one, other = ([np.array(column, float) for column in zip(*rows, strict=True)] for rows in (answers, shuffled))
    assert scores.aurc(*one) == pytest.approx(scores.aurc(*other))


def test_sure_and_wrong_is_worse_than_unsure_and_wrong():
    correct = np.array([1.0, 1.0, 0.0])
    assert scores.aurc(np.array([0.9, 0.8, 0.1]), correct) < scores.aurc(np.array([0.5, 0.4, 0.9]), correct)
    assert scores.ece(np.array([1.0, 1.0, 0.0]), correct.astype(bool)) == 0


def test_few_answers_show_an_error_by_chance_that_many_do_not():
    few, many = (np.random.default_rng(1).uniform(0.3, 1, n) for n in (60, 6000))
    assert scores.ece_by_chance(few) > 4 * scores.ece_by_chance(many) > 0
    assert scores.ece_by_chance(np.ones(50)) == 0


def test_the_commonest_is_the_same_whatever_the_order():
    assert scores.commonest(["b", "a"]) == scores.commonest(["a", "b"]) == "a"
    assert scores.commonest([]) is None
