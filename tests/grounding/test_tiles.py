"""Cutting pictures into tiles and putting together what is seen in them."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidekick.grounding.sizes import MASK_STRIDE
from slidekick.grounding.tiles import GRID, OVERLAP, SMALLEST, TILE, Canvas, Tiling, rescale, warp

even = st.integers(1, 1500).map(lambda half: 2 * half)
sizes = st.tuples(even, even)


def starts(tiling: Tiling, axis: int) -> list[int]:
    return sorted({place[axis] for place in tiling.places})


@given(sizes)
def test_tiles_are_of_one_size_that_the_network_takes(size):
    tiling = Tiling.over(*size)
    for side in tiling.tile:
        assert side % GRID == 0
        assert SMALLEST <= side <= TILE
    assert len(set(tiling.places)) == len(tiling.places)
    assert all(y % MASK_STRIDE == x % MASK_STRIDE == 0 for y, x in tiling.places)


@given(sizes)
def test_every_pixel_is_in_a_tile_and_neighbours_share_a_strip(size):
    tiling = Tiling.over(*size)
    for axis, length in enumerate(size):
        side, begin = tiling.tile[axis], starts(tiling, axis)
        assert begin[0] == 0
        assert begin[-1] + side >= length
        assert all(after + OVERLAP - MASK_STRIDE <= before + side for before, after in itertools.pairwise(begin))
        if len(begin) > 1:
            assert begin[-1] + side <= length + MASK_STRIDE, "the last is flush with the end"


@given(sizes)
def test_there_are_no_more_tiles_than_needed(size):
    tiling = Tiling.over(*size)
    for axis, length in enumerate(size):
        number = len(starts(tiling, axis))
        assert number == 1 or (number - 1) * (TILE - OVERLAP) + OVERLAP < length


def test_a_usual_field_of_view_is_one_tile_as_large_as_itself():
    assert Tiling.over(512, 512).tile == (512, 512)
    assert Tiling.over(600, 450) == Tiling(600, 450, (608, 480), ((0, 0),))
    assert Tiling.over(640, 642).tile == (640, 384)
    assert len(Tiling.over(1024, 1024).places) == 4


@settings(deadline=None, max_examples=30)
@given(st.tuples(st.integers(1, 500).map(lambda n: 2 * n), st.integers(1, 500).map(lambda n: 2 * n)), st.integers(0, 9))
def test_tiles_show_the_picture_where_they_lie_and_its_mirror_beyond(size, seed):
    height, width = size
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    tiling = Tiling.over(height, width)
    for (y, x), piece in zip(tiling.places, tiling.cut(picture), strict=True):
        assert (piece.shape, piece.dtype) == ((*tiling.tile, 3), np.uint8)
        own = picture[y : y + tiling.tile[0], x : x + tiling.tile[1]]
        np.testing.assert_array_equal(piece[: own.shape[0], : own.shape[1]], own)
        if tiling.tile[0] > own.shape[0]:
            np.testing.assert_array_equal(piece[own.shape[0], : own.shape[1]], own[-1])


@settings(deadline=None, max_examples=40)
@given(sizes, st.floats(0, 1, width=32))
def test_a_constant_map_comes_back_constant(size, value):
    tiling = Tiling.over(*size)
    canvas, taper = Canvas(tiling), tiling.taper
    assert taper.shape == tuple(side // MASK_STRIDE for side in tiling.tile)
    assert taper.min() > 0
    for place in tiling.places:
        canvas.add(place, taper, np.full((2, *taper.shape), value, np.float32), value)
    for shown in (canvas.drawn, canvas.interior):
        assert (shown.shape, shown.dtype) == ((size[0] // 2, size[1] // 2), np.float32)
        np.testing.assert_allclose(shown, value, atol=1e-5)
    assert canvas.presence == pytest.approx(value)


@settings(deadline=None, max_examples=25)
@given(st.tuples(st.integers(300, 700), st.integers(300, 700)), st.integers(0, 99))
def test_what_all_tiles_agree_on_comes_back_as_it_was(half, seed):
    """A map over the whole picture, cut as the tiles are."""
    tiling = Tiling.over(2 * half[0], 2 * half[1])
    whole = np.random.default_rng(seed).random((2, *half)).astype(np.float32)
    canvas = Canvas(tiling)
    rows, columns = (side // MASK_STRIDE for side in tiling.tile)
    for y, x in tiling.places:
        maps = np.zeros((2, rows, columns), np.float32)
        part = whole[:, y // 2 : y // 2 + rows, x // 2 : x // 2 + columns]
        maps[:, : part.shape[1], : part.shape[2]] = part
        canvas.add((y, x), tiling.taper, maps, 0.0)
    np.testing.assert_allclose(canvas.drawn, whole[0], atol=1e-5)
    np.testing.assert_allclose(canvas.interior, whole[1], atol=1e-5)


def test_tiles_where_it_is_absent_add_nothing_and_the_most_present_one_speaks():
    tiling = Tiling.over(64, 1000)
    canvas, taper = Canvas(tiling), tiling.taper
    ones = np.ones((2, *taper.shape), np.float32)
    canvas.add(tiling.places[0], taper, ones, 3.0)
    canvas.add(tiling.places[1], taper, None, -5.0)
    assert canvas.presence == 3.0
    first = (tiling.places[1][1] - 2) // MASK_STRIDE
    np.testing.assert_allclose(canvas.drawn[:, :first], 1)
    assert (canvas.drawn[:, tiling.tile[1] // MASK_STRIDE :] == 0).all()
    between = canvas.drawn[0, first + 1 : tiling.tile[1] // MASK_STRIDE]
    assert (np.diff(between) <= 0).all(), "it fades where the tiles overlap"


@settings(deadline=None, max_examples=60)
@given(st.tuples(st.integers(1, 400), st.integers(1, 400)), st.floats(0.05, 4))
def test_a_rescaled_picture_has_even_sides_near_what_was_asked(size, zoom):
    image = np.full((*size, 3), 77, np.uint8)
    scaled = rescale(image, zoom)
    assert scaled.dtype == np.uint8
    assert (scaled == 77).all()
    for length, own in zip(size, scaled.shape, strict=False):
        assert own % 2 == 0
        assert own >= 2
        assert abs(own - max(8 if abs(zoom - 1) >= 0.02 else 2, length * zoom)) <= max(2, 0.02 * length + 1)


def test_at_about_its_own_scale_a_picture_is_left_as_it_is():
    image = np.zeros((30, 40, 3), np.uint8)
    assert rescale(image, 1.0) is image
    assert rescale(image, 1.015) is image
    assert rescale(image, 1.05).shape == (32, 42, 3)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 150), st.integers(0, 150), st.sampled_from([0.3, 0.5, 0.7]), st.integers(0, 3), st.booleans())
def test_a_window_shows_the_same_whether_all_of_the_picture_was_smoothed_or_a_part(x, y, zoom, turns, flipped):
    image = np.random.default_rng(0).integers(0, 256, (150, 150, 3), np.uint8)
    angle = turns * np.pi / 2
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn @ np.diag([-1 if flipped else 1, 1])
    matrix = np.column_stack([turn, 16 - turn @ [x, y]])
    smooth = cv2.GaussianBlur(image, (0, 0), 0.4 / zoom)
    whole = cv2.warpAffine(smooth, matrix, (32, 32), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    assert np.abs(warp(image, matrix, 32).astype(int) - whole).max() <= 2  # of 255: warpAffine counts in 1/32 px


def test_of_a_window_past_the_edge_only_what_it_shows_is_smoothed(monkeypatch):
    sizes, blur = [], cv2.GaussianBlur
    monkeypatch.setattr(cv2, "GaussianBlur", lambda array, *more: sizes.append(array.shape[:2]) or blur(array, *more))
    warp(np.zeros((3000, 4000, 3), np.uint8), np.array([[0.5, 0, 40], [0, 0.5, 40]]), 200)
    assert max(*sizes[0]) < 400
