import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slidekick.data.statistics import balanced_accuracy, bootstrap, mean_figure

VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(VALUES)
def test_the_interval_holds_the_mean_and_stays_within_the_values(values):
    figure = mean_figure(values)
    assert figure.n == len(values)
    assert math.isclose(figure.value, np.mean(values), abs_tol=1e-12)
    assert min(values) - 1e-9 <= figure.low <= figure.value + 1e-9
    assert figure.value - 1e-9 <= figure.high <= max(values) + 1e-9


def test_more_items_make_the_interval_narrower():
    few, many = mean_figure([0, 1] * 5), mean_figure([0, 1] * 500)
    assert many.high - many.low < (few.high - few.low) / 5


def test_nothing_measured_is_none_in_json():
    assert mean_figure([]).to_dict() == {"value": None, "low": None, "high": None, "n": 0}


def test_the_same_seed_gives_the_same_interval():
    assert mean_figure([0.1, 0.5, 0.9]) == mean_figure([0.1, 0.5, 0.9])


def test_balanced_accuracy_gives_every_class_the_same_weight():
    truth = np.array(["a"] * 8 + ["b"] * 2)
    correct = np.array([1.0] * 8 + [0.0] * 2)
    assert balanced_accuracy(truth, correct) == 0.5
    assert bootstrap(lambda index: balanced_accuracy(truth[index], correct[index]), 10).value == 0.5
