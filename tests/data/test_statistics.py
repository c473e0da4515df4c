import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidekick.data.statistics import balanced_accuracy, bootstrap, bootstrap_figure, clustered, draws, mean_figure

VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(VALUES)
@settings(deadline=None)
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


def share(rows: np.ndarray) -> float:
    """Of all objects, the share found: a micro-average of (found, all) rows."""
    found, everything = np.asarray(rows, float).T
    return float(found.sum() / everything.sum()) if everything.sum() else math.nan


COUNTS = np.array([[9, 10], [0, 1], [40, 80], [5, 5]])


def test_a_micro_average_weighs_rows_by_what_they_hold():
    figure = bootstrap_figure(COUNTS, share)
    assert figure.value == pytest.approx(54 / 96)
    assert figure.n == 4
    assert 0 <= figure.low < figure.value < figure.high <= 1


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(5, 9)), min_size=1, max_size=12), st.integers(0, 3))
def test_lists_and_arrays_of_rows_give_the_same_interval(rows, seed):
    as_list = bootstrap_figure(rows, share, seed=seed)
    assert bootstrap_figure(np.array(rows), share, seed=seed) == as_list
    assert as_list.low <= as_list.value + 1e-9
    assert as_list.value <= as_list.high + 1e-9


def test_rows_of_a_group_are_drawn_together():
    rows = np.array([[1, 1]] * 20 + [[0, 1]] * 20)
    seen = set()

    def noted(chosen: np.ndarray) -> float:
        seen.add(len(chosen))
        return share(chosen)

    together = bootstrap_figure(rows, noted, groups=["a"] * 20 + ["b"] * 20)
    assert seen == {40}
    assert (together.low, together.high) == (0, 1)  # two patients, who say nothing between them
    alone = bootstrap_figure(rows, share)
    assert (together.value, together.n) == (alone.value, alone.n) == (0.5, 40)
    assert alone.high - alone.low < 0.4


def test_groups_of_one_are_no_groups():
    assert bootstrap_figure(COUNTS, share, groups=["a", "b", "c", "d"]) == bootstrap_figure(COUNTS, share)


def test_groups_need_not_be_sorted():
    shuffled = [2, 0, 3, 1]
    groups = ["a", "a", "b", "b"]
    mixed = bootstrap_figure(COUNTS[shuffled], share, groups=[groups[i] for i in shuffled])
    assert mixed.value == pytest.approx(bootstrap_figure(COUNTS, share, groups=groups).value)
    assert mixed.n == 4


def test_one_group_has_a_value_and_no_interval():
    assert bootstrap_figure(COUNTS, share, groups=["a"] * 4).to_dict() == {
        "value": 0.5625,
        "low": None,
        "high": None,
        "n": 4,
    }


@pytest.mark.filterwarnings("error")
def test_a_statistic_without_a_value_leaves_the_interval_to_the_other_draws():
    figure = bootstrap_figure(np.array([[0, 0], [1, 2]]), share)
    assert (figure.value, figure.low, figure.high) == (0.5, 0.5, 0.5)
    assert bootstrap_figure(np.zeros((3, 2)), share).to_dict() == {"value": None, "low": None, "high": None, "n": 3}
    assert bootstrap_figure([], share).to_dict() == {"value": None, "low": None, "high": None, "n": 0}


def test_a_group_must_be_given_for_every_row():
    with pytest.raises(ValueError, match="3 groups for 4 rows"):
        bootstrap_figure(COUNTS, share, groups=["a", "b", "c"])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_draws_keep_groups_whole_and_strata_their_groups(rows):
    strata, groups = ([row[i] for row in rows] for i in (0, 1))
    for index in draws(groups, strata, resamples=5):
        for stratum in set(strata):
            drawn = [groups[i] for i in index if strata[i] == stratum]
            total = 0
            for group in set(drawn):
                size = sum((s, g) == (stratum, group) for s, g in rows)
                assert drawn.count(group) % size == 0
                total += drawn.count(group) // size
            assert total == len({g for s, g in rows if s == stratum})


def test_pictures_of_few_patients_say_less_than_as_many_patients():
    values = np.tile([0.0, 1.0], 20)
    alone = clustered(lambda index: values[index].mean(), range(40))
    together = clustered(lambda index: values[index].mean(), [i % 4 for i in range(40)])
    assert alone.value == together.value == 0.5
    assert alone.high - alone.low < together.high - together.low


def test_one_group_alone_has_no_interval_but_two_sets_do():
    values = np.array([0.0, 1.0, 1.0])
    assert math.isnan(clustered(lambda index: values[index].mean(), ["p"] * 3).low)
    assert math.isnan(clustered(lambda index: values[index].mean(), ["p", "q", "q"], ["a", "b", "b"]).low)
    assert not math.isnan(clustered(lambda index: values[index].mean(), ["p", "q", "r"], ["a", "b", "b"]).low)
