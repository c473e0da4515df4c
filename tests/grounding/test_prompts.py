"""Boxes, points and corrections as training makes them; coordinates in px of the window, masks in their own cells."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from slidekick.grounding.prompts import MAX_BOX_NOISE, box_around, click_in, correcting_click, padded, pick_object
from slidekick.grounding.sizes import CORNER_FIRST, CORNER_LAST, NEGATIVE, NO_POINT, POSITIVE

SCALE = 2  # window px a mask cell
seeds = st.integers(0, 2**32 - 1)


def blobs(seed: int, number: int = 3, size: int = 40) -> np.ndarray:
    """int32 (size, size): up to `number` rectangles, later ones over earlier ones."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((size, size), np.int32)
    for index in range(1, number + 1):
        y, x, h, w = *rng.integers(0, size - 8, 2), *rng.integers(2, 9, 2)
        ids[y : y + h, x : x + w] = index
    return ids


@given(seeds)
def test_a_picked_object_is_one_of_those_by_their_ids(seed):
    ids = blobs(seed)
    mask = ids > 0
    one = pick_object(mask, ids, np.random.default_rng(seed))
    if one is None:
        assert max(np.bincount(ids.ravel())[1:]) < 12
    else:
        (own,) = np.unique(ids[one])
        np.testing.assert_array_equal(one, ids == own)
        assert one.sum() >= 12


@given(seeds)
def test_without_ids_a_picked_object_is_a_connected_piece(seed):
    mask = blobs(seed) > 0
    one = pick_object(mask, None, np.random.default_rng(seed))
    pieces = ndimage.label(mask, np.ones((3, 3)))[0]
    if one is not None:
        (own,) = np.unique(pieces[one])
        np.testing.assert_array_equal(one, pieces == own)


def test_every_large_object_is_picked_some_time_and_small_ones_never():
    ids = np.zeros((20, 20), np.int32)
    ids[1:5, 1:5], ids[1:5, 8:12], ids[15, 15:18] = 4, 9, 2
    picked = [pick_object(ids > 0, ids, np.random.default_rng(seed)) for seed in range(30)]
    assert {int(ids[one].max()) for one in picked} == {4, 9}
    assert pick_object(ids == 2, ids, np.random.default_rng(0)) is None
    assert pick_object(np.zeros((5, 5), bool), None, np.random.default_rng(0)) is None


@given(seeds)
def test_a_box_is_two_corners_near_the_objects_own(seed):
    mask = blobs(seed) > 0
    ys, xs = np.nonzero(mask)
    edges = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) * SCALE
    (x0, y0, first), (x1, y1, last) = box_around(mask, SCALE, np.random.default_rng(seed))
    assert (first, last) == (CORNER_FIRST, CORNER_LAST)
    noise = np.abs(np.array([x0, y0, x1, y1]) - edges)
    assert (noise <= MAX_BOX_NOISE).all()
    sides = (edges[2:] - edges[:2])[[0, 1, 0, 1]]
    assert (noise <= 6 * 0.1 * sides).all()  # six standard deviations
    assert (x0, y0) < (x1, y1)


def test_boxes_are_loosened_anew_each_time_about_the_objects_own():
    mask = np.zeros((60, 60), bool)
    mask[10:50, 20:40] = True
    rng = np.random.default_rng(0)
    boxes = np.array([[(x, y) for x, y, _ in box_around(mask, SCALE, rng)] for _ in range(300)]).reshape(-1, 4)
    np.testing.assert_allclose(boxes.mean(0), [40, 20, 80, 100], atol=1.5)
    np.testing.assert_allclose(boxes.std(0), [4, 8, 4, 8], rtol=0.15)


@given(seeds, st.sampled_from([NEGATIVE, POSITIVE]))
def test_a_click_lies_in_the_middle_of_a_cell_of_the_mask(seed, label):
    mask = blobs(seed) > 0
    x, y, said = click_in(mask, label, SCALE, np.random.default_rng(seed))
    assert said == label
    assert mask[int(y / SCALE), int(x / SCALE)]
    assert (x / SCALE % 1, y / SCALE % 1) == (0.5, 0.5)


@settings(deadline=None)
@given(seeds, seeds)
def test_a_correction_lies_on_what_is_wrong_and_says_what_is_right(one, other):
    drawn, truth = blobs(one) > 0, blobs(other) > 0
    click = correcting_click(drawn, truth, SCALE, np.random.default_rng(one))
    if (drawn == truth).all():
        assert click is None
        return
    x, y, label = click
    row, column = int(y / SCALE), int(x / SCALE)
    assert drawn[row, column] != truth[row, column]
    assert label == (POSITIVE if truth[row, column] else NEGATIVE)


@given(seeds)
def test_nothing_wrong_needs_no_correction(seed):
    mask = blobs(seed) > 0
    assert correcting_click(mask, mask.copy(), SCALE, np.random.default_rng(seed)) is None


def test_the_largest_wrong_piece_is_corrected_half_of_the_time_in_its_middle():
    truth, drawn = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    truth[5:16, 5:16] = True  # missed, 121 cells
    drawn[30:34, 30:34] = True  # false, 16 cells
    clicks = [correcting_click(drawn, truth, SCALE, np.random.default_rng(seed)) for seed in range(200)]
    assert all(5 <= int(x / SCALE) < 16 and 5 <= int(y / SCALE) < 16 and label == POSITIVE for x, y, label in clicks)
    middle = np.mean([(x, y) == (21.0, 21.0) for x, y, _ in clicks])
    assert 0.4 < middle < 0.62
    _, _, label = correcting_click(drawn | True, truth, SCALE, np.random.default_rng(0))
    assert label == NEGATIVE


def test_a_correction_at_the_windows_edge_stays_in_it():
    truth = np.zeros((10, 10), bool)
    truth[:, -1] = truth[-1] = True
    for seed in range(30):
        x, y, _ = correcting_click(np.zeros_like(truth), truth, SCALE, np.random.default_rng(seed))
        assert truth[int(y / SCALE), int(x / SCALE)]


clicks = st.tuples(st.floats(0, 256, width=32), st.floats(0, 256, width=32), st.sampled_from([0, 1, 2, 3]))


@given(st.lists(st.lists(clicks, max_size=5), max_size=5))
def test_rows_are_filled_up_to_the_longest(rows):
    points, labels = padded(rows)
    length = max([1, *map(len, rows)])
    assert (points.shape, points.dtype) == ((len(rows), length, 2), np.float32)
    assert (labels.shape, labels.dtype) == ((len(rows), length), np.int64)
    for row, places, kinds in zip(rows, points, labels, strict=True):
        assert [(*map(float, place), int(kind)) for place, kind in zip(places, kinds, strict=True)] == [
            *row,
            *[(0.0, 0.0, NO_POINT)] * (length - len(row)),
        ]


@pytest.mark.parametrize("seed", range(3))
def test_the_same_randomness_makes_the_same_prompts(seed):
    ids = blobs(seed)
    mask = ids > 0
    made = [
        (
            box_around(mask, SCALE, rng),
            click_in(mask, POSITIVE, SCALE, rng),
            correcting_click(mask, ids == 1, SCALE, rng),
        )
        for rng in (np.random.default_rng(9), np.random.default_rng(9))
    ]
    assert made[0] == made[1]
