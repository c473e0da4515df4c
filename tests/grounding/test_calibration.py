from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from slidekick.grounding.calibration import PixelCalibration, expected_calibration_error, gap, reliability

PROBABILITIES = st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 1.0]))
ITEMS = st.lists(st.tuples(PROBABILITIES, st.booleans()), min_size=1, max_size=60)


def naive_error(probability: np.ndarray, truth: np.ndarray, bins: int) -> float:
    """The definition of Guo et al. 2017: item by item into (low, high]."""
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for index, (low, high) in enumerate(pairwise(edges)):
        inside = [i for i, p in enumerate(probability) if low < p <= high or (index == 0 and p == 0)]
        if inside:
            total += abs(sum(probability[i] for i in inside) - sum(truth[i] for i in inside))
    return total / len(probability)


def test_an_error_computed_by_hand():
    probability, truth = np.array([0.1, 0.3, 0.8, 0.8]), np.array([False, True, True, False])
    assert expected_calibration_error(probability, truth, bins=2) == pytest.approx((2 * 0.3 + 2 * 0.3) / 4)
    assert reliability(probability, truth, bins=2) == [
        {"low": 0.0, "high": 0.5, "n": 2, "probability": pytest.approx(0.2), "truth": 0.5},
        {"low": 0.5, "high": 1.0, "n": 2, "probability": pytest.approx(0.8), "truth": 0.5},
    ]


def test_a_probability_on_an_edge_belongs_below_it():
    (row,) = reliability(np.array([0.5]), np.array([True]), bins=2)
    assert (row["low"], row["high"]) == (0, 0.5)
    assert [row["n"] for row in reliability(np.array([0.0, 1.0]), np.array([False, True]), bins=3)] == [1, 1]


def test_certain_and_right_is_calibrated_and_certain_and_wrong_is_not():
    truth = np.array([True, False, True])
    assert expected_calibration_error(truth.astype(float), truth) == 0
    assert expected_calibration_error(1.0 - truth, truth) == 1


@given(ITEMS, st.integers(1, 20))
def test_the_error_is_that_of_its_definition(items, bins):
    probability, truth = (np.array(column) for column in zip(*items, strict=True))
    found = expected_calibration_error(probability, truth, bins)
    assert found == pytest.approx(naive_error(probability, truth, bins), abs=1e-9)
    assert 0 <= found <= 1


@given(ITEMS, st.integers(1, 20), st.randoms())
def test_tables_count_every_item_once_and_know_no_order(items, bins, random):
    probability, truth = (np.array(column) for column in zip(*items, strict=True))
    table = reliability(probability, truth, bins)
    assert len(table) <= bins
    assert sum(row["n"] for row in table) == len(items)
    assert sum(row["n"] * row["truth"] for row in table) == pytest.approx(truth.sum())
    assert all(row["low"] - 1e-7 <= row["probability"] <= row["high"] + 1e-7 for row in table)
    assert all(one["high"] <= other["low"] for one, other in pairwise(table))
    assert 0 <= gap(table) <= 1
    random.shuffle(items)
    probability, truth = (np.array(column) for column in zip(*items, strict=True))
    again = reliability(probability, truth, bins)
    assert [row["n"] for row in again] == [row["n"] for row in table]


def test_nothing_has_no_error():
    assert np.isnan(expected_calibration_error(np.zeros(0), np.zeros(0, bool)))
    assert np.isnan(PixelCalibration().error())
    assert PixelCalibration().table() == []


@pytest.mark.parametrize("wrong", [[np.nan], [-0.1], [1.1], [4.2]])
def test_logits_are_not_taken_for_probabilities(wrong):
    with pytest.raises(ValueError, match="0–1"):
        expected_calibration_error(np.array(wrong), np.array([True]))


def test_every_probability_needs_a_truth():
    with pytest.raises(ValueError, match="one truth each"):
        reliability(np.array([0.5, 0.5]), np.array([True]))


@given(
    st.lists(
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8).flatmap(
            lambda shape: st.tuples(
                hnp.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)),
                hnp.arrays(bool, shape),
                hnp.arrays(bool, shape),
            )
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 15),
)
def test_pictures_one_by_one_give_what_all_pixels_together_give(pictures, bins):
    kept = PixelCalibration(bins)
    for probability, truth, judged in pictures:
        kept.add(probability, truth, judged)
    probability, truth = (np.concatenate([(p, t)[which][j] for p, t, j in pictures]).astype(float) for which in (0, 1))
    whole = expected_calibration_error(probability, truth, bins)
    assert kept.error() == pytest.approx(whole, abs=1e-6, nan_ok=True)
    assert [row["n"] for row in kept.table()] == [row["n"] for row in reliability(probability, truth, bins)]


def test_memory_does_not_grow_with_pictures():
    kept = PixelCalibration(5)
    for _ in range(3):
        kept.add(np.full((50, 50), 0.7, np.float32), np.ones((50, 50), bool))
    held = [value for value in vars(kept).values() if isinstance(value, np.ndarray)]
    assert sum(array.size for array in held) < 5 * 5
    assert kept.error() == pytest.approx(0.3)
    assert kept.table()[0]["n"] == 7500
