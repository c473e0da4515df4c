"""Objects outlined from boxes and points, with a network that fills the box or draws a disc about the point."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidekick.data.errors import InputError
from slidekick.grounding.pointing import MOST_PROMPTS, USUAL, checked_boxes, checked_points, outline_objects
from slidekick.grounding.runtime import Maps
from slidekick.grounding.sizes import (
    CLOSEST,
    CORNER_FIRST,
    CORNER_LAST,
    MASK_STRIDE,
    NEGATIVE,
    PHRASE_WIDTH,
    POSITIVE,
    SegmentorConfig,
)

SHAPE = (80, 120)  # height, width
RADIUS = 8.0  # px of the window
NO_WORDS = np.zeros(PHRASE_WIDTH, np.float32)


class Filler:
    """Fills a box, less discs about negative points; without a box draws discs about the positive ones."""

    def __init__(self, window: int = 64, sure: float = 20.0, radius: float = RADIUS) -> None:
        self.config = SegmentorConfig(window=window)
        self.sure, self.radius = sure, radius
        self.windows: list[np.ndarray] = []
        self.asked: list[tuple] = []

    def encode(self, window: np.ndarray) -> Maps:
        assert (window.shape, window.dtype) == ((self.config.window, self.config.window, 3), np.uint8)
        self.windows.append(window)
        return Maps(np.zeros((1, 1, 8, 8), np.float32), None, None)

    def decode(self, maps, phrases, points=None, labels=None, former=None):
        assert (phrases.shape, points.dtype, labels.dtype) == ((1, PHRASE_WIDTH), np.float32, np.int64)
        self.asked.append((phrases[0], points[0], labels[0], former))
        cells = (np.arange(self.config.window // MASK_STRIDE) + 0.5) * MASK_STRIDE - 0.5  # px of their middles
        x, y = np.meshgrid(cells, cells)
        places = dict(zip(labels[0].tolist(), points[0].tolist(), strict=True))
        inside = np.zeros(x.shape, bool)
        if CORNER_FIRST in places:
            (x0, y0), (x1, y1) = places[CORNER_FIRST], places[CORNER_LAST]
            inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        for (px, py), label in zip(points[0], labels[0], strict=True):
            near = (x - px) ** 2 + (y - py) ** 2 < self.radius**2
            if label == POSITIVE and CORNER_FIRST not in places:
                inside |= near
            if label == NEGATIVE:
                inside &= ~near
        logits = np.where(inside, self.sure, -self.sure).astype(np.float32)
        return np.stack([logits, logits])[None], np.zeros(1, np.float32)


def picture(shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def outlined(clicks=(), frames=(), zoom=None, network=None, shape=SHAPE, vector=NO_WORDS, slope=1.0):
    network = network or Filler()
    return outline_objects(network, picture(shape), vector, zoom, list(clicks), list(frames), slope)


def test_points_are_taken_as_pairs_or_with_a_label():
    assert checked_points(None, SHAPE) == checked_points([], SHAPE) == []
    assert checked_points([(3, 4), (5.5, 6, 0), [0, 0, 1]], SHAPE) == [(3.0, 4.0, 1), (5.5, 6.0, 0), (0.0, 0.0, 1)]
    array = np.array([[119.5, 79.5, 1]], np.float32)
    assert checked_points(array, SHAPE) == [(119.5, 79.5, 1)]
    assert checked_points(((np.int64(3), np.float32(4), np.int8(0)),), SHAPE) == [(3.0, 4.0, 0)]


@pytest.mark.parametrize(
    ("points", "told"),
    [
        ([(120, 5, 1)], r"point \(120, 5, 1\) is outside the picture of 120 × 80 px"),
        ([(5, 80)], "outside the picture"),
        ([(-0.5, 5)], "outside the picture"),
        ([(5, 5, 2)], "label 2 is neither 1 .* nor 0"),
        ([(5, 5, 0.5)], "label 0.5 is neither"),
        ([(5,)], "is no \\(x, y, label\\)"),
        ([(5, 5, 1, 1)], "is no \\(x, y, label\\)"),
        ([()], "is no \\(x, y, label\\)"),
        ([(math.nan, 5)], "is no \\(x, y, label\\)"),
        ([(math.inf, 5)], "is no \\(x, y, label\\)"),
        ([("5", "5")], "is no \\(x, y, label\\)"),
        ([(None, 5)], "is no \\(x, y, label\\)"),
        ([5, 5], "points hold 5; give a list of tuples"),
        (["55"], "points hold 55; give a list of tuples"),
        ("55", "give a list of tuples"),
        (5, "points is 5; give a list of tuples"),
        (np.array(5), "points is 5; give a list of tuples"),
        ([np.array(5)], "points hold 5; give a list of tuples"),
        ([np.eye(3)], "points hold .*; give a list of tuples"),
        ({"x": 5}, "give a list of tuples"),
        ([(1, 1)] * (MOST_PROMPTS + 1), f"{MOST_PROMPTS + 1} points; give {MOST_PROMPTS} at most"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_point_of_the_picture_is_told(points, told):
    with pytest.raises(InputError, match=told) as caught:
        checked_points(points, SHAPE)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_boxes_are_cut_to_the_picture():
    assert checked_boxes(None, SHAPE) == []
    assert checked_boxes([(-5, -5, 500, 500)], SHAPE) == [(0, 0, 120, 80)]
    assert checked_boxes(np.array([[1, 2, 30, 40]]), SHAPE) == [(1, 2, 30, 40)]


@pytest.mark.parametrize(
    ("boxes", "told"),
    [
        ([(30, 2, 1, 40)], "is inverted or empty; give its upper left, then its lower right"),
        ([(1, 2, 1, 40)], "is inverted or empty"),
        ([(200, 2, 230, 40)], "outside the picture of 120 × 80 px"),
        ([(-30, 2, -3, 40)], "outside the picture"),
        ([(119.5, 2, 130, 40)], "outside the picture"),
        ([(1, 2, 30)], "is no \\(x0, y0, x1, y1\\)"),
        ([(1, 2, 30, 40, 50)], "is no \\(x0, y0, x1, y1\\)"),
        ([(1, 2, math.nan, 40)], "is no \\(x0, y0, x1, y1\\)"),
        ([(1, 2, math.inf, 40)], "is no \\(x0, y0, x1, y1\\)"),
        ([(1, 2, "30", 40)], "is no \\(x0, y0, x1, y1\\)"),
        ((1, 2, 30, 40), "boxes hold 1; give a list of tuples"),
        (7, "boxes is 7; give a list of tuples"),
        ([(1, 1, 9, 9)] * (MOST_PROMPTS + 1), "boxes; give"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_box_of_the_picture_is_told(boxes, told):
    with pytest.raises(InputError, match=told) as caught:
        checked_boxes(boxes, SHAPE)
    assert "\n" not in str(caught.value)


number = st.one_of(st.floats(), st.integers(-(10**9), 10**9), st.none(), st.text(max_size=3), st.booleans())


@given(st.lists(st.one_of(number, st.lists(number, max_size=5)), max_size=4))
def test_whatever_is_given_either_lies_in_the_picture_or_is_an_input_error(rows):
    for check in (checked_points, checked_boxes):
        try:
            found = check(rows, SHAPE)
        except InputError:
            continue
        assert len(found) == len(rows)
        for row in found:
            assert 0 <= row[0] <= SHAPE[1]
            assert 0 <= row[1] <= SHAPE[0]
            assert len(row) == 3 or (row[0] < row[2] <= SHAPE[1] and row[1] < row[3] <= SHAPE[0])


sides = st.tuples(st.integers(0, 90), st.integers(0, 60), st.integers(6, 60), st.integers(6, 60))


@settings(deadline=None, max_examples=60)
@given(sides, st.sampled_from([64, 128]))
def test_a_box_is_filled_where_it_lies_and_looked_at_as_large_as_in_training(box, window):
    x0, y0, w, h = box
    x1, y1 = min(x0 + w, SHAPE[1]), min(y0 + h, SHAPE[0])
    network = Filler(window)
    drawn, labels = outlined(frames=[(x0, y0, x1, y1)], zoom=7.0, network=network)
    assert (drawn.shape, drawn.dtype) == (SHAPE, np.float32)
    assert (labels.shape, labels.dtype) == (SHAPE, np.int32)
    assert (labels > 0).tolist() == (drawn >= 0.5).tolist()
    ((_, places, kinds, _),) = network.asked
    assert kinds.tolist() == [CORNER_FIRST, CORNER_LAST]
    assert (places >= -0.01).all()
    assert (places <= window + 0.01).all(), "all of the box is seen"
    used = (places[1] - places[0]) / [x1 - x0, y1 - y0]
    np.testing.assert_allclose(used, used[0], rtol=1e-3)
    wanted = USUAL * window / max(x1 - x0, y1 - y0)
    assert used[0] == pytest.approx(min(max(wanted, window / (2 * max(SHAPE))), CLOSEST), rel=1e-3)
    slack = math.ceil(MASK_STRIDE / used[0]) + 1  # a mask cell, in px of the picture
    inside = np.zeros(SHAPE, bool)
    inside[y0 + slack : max(0, y1 - slack), x0 + slack : max(0, x1 - slack)] = True  # no end counted from behind
    around = np.zeros(SHAPE, bool)
    around[max(0, y0 - slack) : y1 + slack, max(0, x0 - slack) : x1 + slack] = True
    assert (labels[inside] == 1).all()
    assert not labels[~around].any()


def test_what_is_seen_is_the_picture_about_the_box():
    network, image = Filler(), picture()
    outline_objects(network, image, NO_WORDS, 1.0, [], [(46.4, 26.4, 65.6, 45.6)], 1.0)
    (window,) = network.windows
    np.testing.assert_array_equal(window, image[4:68, 24:88])


def test_each_box_is_one_object_numbered_in_their_order():
    frames = [(70, 10, 100, 40), (10, 10, 40, 40), (10, 50, 40, 70)]
    network = Filler()
    _, labels = outlined(frames=frames, network=network)
    for index, (x0, y0, x1, y1) in enumerate(frames, 1):
        assert (labels[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3] == index).all()
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    assert len(network.windows) == 3


def test_where_boxes_overlap_the_likelier_object_wins_whichever_comes_first():
    class Surer(Filler):
        """Surer of the square box."""

        def decode(self, maps, phrases, points=None, labels=None, former=None):
            width, height = points[0, 1] - points[0, 0]
            self.sure = 20.0 if abs(width - height) < 1 else 1.0
            return super().decode(maps, phrases, points, labels, former)

    large, small = (20, 10, 70, 60), (40, 30, 90, 40)
    for frames, first in (([large, small], 1), ([small, large], 2)):
        drawn, labels = outlined(frames=frames, network=Surer())
        assert (labels[32:38, 44:66] == first).all()
        assert (labels[32:38, 75:85] == 3 - first).all()
        assert (drawn[32:38, 44:66] > 0.9).all()


def test_points_correct_the_box_that_they_lie_in():
    network = Filler()
    _, labels = outlined([(25, 25, 0), (105, 75, 1)], [(10, 10, 40, 40), (70, 10, 100, 40)], network=network)
    assert [kinds.tolist() for *_, kinds, _ in network.asked] == [
        [CORNER_FIRST, CORNER_LAST],
        [CORNER_FIRST, CORNER_LAST, NEGATIVE],
        [CORNER_FIRST, CORNER_LAST],
    ]
    assert [former is None for *_, former in network.asked] == [True, False, True]
    assert labels[25, 25] == 0
    assert labels[13, 13] == 1
    assert labels[25, 85] == 2


def test_points_alone_mean_one_object_and_all_of_them_are_seen():
    network = Filler()
    _, labels = outlined([(5, 5, 1), (100, 70, 1), (60, 40, 0)], network=network)
    assert set(np.unique(labels)) == {0, 1}
    assert labels[5, 5] == labels[69, 99] == 1
    assert labels[40, 60] == 0
    assert [kinds.tolist() for *_, kinds, _ in network.asked[:3]] == [
        [POSITIVE],
        [POSITIVE, POSITIVE],
        [POSITIVE, POSITIVE, NEGATIVE],
    ]
    (_, places, _, _) = network.asked[2]
    assert (places >= 0).all()
    assert (places <= 64).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, SHAPE[1] - 1), st.integers(0, SHAPE[0] - 1), st.sampled_from([None, 0.4, 2.0]))
def test_a_single_point_is_looked_at_at_the_concepts_zoom_or_as_it_is(x, y, zoom):
    _, labels = outlined([(x + 0.5, y + 0.5, 1)], zoom=zoom)
    ys, xs = np.nonzero(labels)
    assert labels[y, x] == 1
    radius = RADIUS / (zoom or 1.0)
    assert np.hypot(xs - x, ys - y).max() <= radius + 2 * MASK_STRIDE / (zoom or 1.0)
    area = len(xs) / (np.pi * radius**2)
    corner = x < 2 * radius or y < 2 * radius or x > SHAPE[1] - 2 * radius or y > SHAPE[0] - 2 * radius
    assert corner or area == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(("radius", "looks"), [(2.0, 2), (8.0, 1), (30.0, 2)])
def test_what_lies_at_a_point_is_looked_at_again_where_it_is_too_small_or_large(radius, looks):
    network = Filler(radius=radius)
    outlined([(60, 40, 1)], network=network)
    assert len(network.windows) == looks
    if looks == 2:
        (seen, again) = network.windows
        assert not np.array_equal(seen, again)


def test_the_slope_makes_probabilities_of_logits():
    network = Filler(sure=2.0)
    for slope in (0.5, 1.0, 3.0):
        drawn, _ = outlined(frames=[(30, 20, 60, 50)], network=network, slope=slope)
        assert drawn[35, 45] == pytest.approx(1 / (1 + np.exp(-2 * slope)), abs=1e-3)
        assert drawn.min() >= 0


def test_the_words_are_given_with_each_box():
    vector = np.random.default_rng(0).normal(size=PHRASE_WIDTH).astype(np.float32)
    network = Filler()
    outlined(frames=[(10, 10, 40, 40), (50, 10, 80, 40)], network=network, vector=vector)
    for said, *_ in network.asked:
        np.testing.assert_array_equal(said, vector)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 2), (700, 40)])
def test_pictures_of_any_size_are_looked_at(shape):
    drawn, labels = outlined(frames=[(0, 0, shape[1], shape[0])], shape=shape)
    assert drawn.shape == labels.shape == shape
    drawn, labels = outlined([(0, 0, 1)], shape=shape)
    assert drawn.shape == shape
