import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from slidekick.data.items import Item, load_items
from slidekick.grounding.windows import (
    Source,
    concept_sources,
    interior_map,
    stain_jitter,
    truth_of,
    warp,
    window,
    window_truth,
)

SIDE = 64
BOX = (30, 20, 70, 52)  # x0, y0, x1, y1 of the painted square
PICTURE = (120, 90)  # width, height


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    """A dark picture with one bright square, which is also its mask and its only object."""
    folder = tmp_path_factory.mktemp("square")
    drawn = np.zeros(PICTURE[::-1], np.uint8)
    x0, y0, x1, y1 = BOX
    drawn[y0:y1, x0:x1] = 1
    Image.fromarray(np.repeat(drawn[..., None] * 255, 3, axis=2)).save(folder / "image.png")
    Image.fromarray(drawn).save(folder / "mask.png")
    return Item("squares", "one", folder / "image.png", "train", mask=folder / "mask.png")


def margins(matrix: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For window points (N, 2): how deep each lies in the square (negative: outside), and in the picture, in its px."""
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    x, y = back @ np.vstack([points.T, np.ones(len(points))])
    x0, y0, x1, y1 = BOX
    inside = np.minimum.reduce([x - (x0 - 0.5), (x1 - 0.5) - x, y - (y0 - 0.5), (y1 - 0.5) - y])
    edge = np.minimum.reduce([x + 0.5, PICTURE[0] - 0.5 - x, y + 0.5, PICTURE[1] - 0.5 - y])
    return inside, edge


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(0.5, 0.7), (1.0, 1.0), (1.1, 2.5)]))
def test_pixels_and_truth_of_a_window_lie_where_its_matrix_says(square, seed, zoom_range):
    source = Source(square, "mask", (1,), components=True)
    pixels, matrix = window(source, SIDE, zoom_range, np.random.default_rng(seed))
    truth = window_truth(source, "square", matrix, SIDE)
    zoom = np.hypot(*matrix[:, 0])
    unsure = 3 / min(zoom, 1)  # picture px: smoothing, and cells of two window px

    ys, xs = np.mgrid[:SIDE, :SIDE]
    inside, edge = margins(matrix, np.stack([xs.ravel(), ys.ravel()], 1))
    bright = pixels.reshape(-1, 3).mean(1)
    assert (bright[inside > unsure] > 200).all()
    assert (bright[(inside < -unsure) & (edge > unsure)] < 55).all()

    cells = np.stack([xs[::2, ::2].ravel() + 0.5, ys[::2, ::2].ravel() + 0.5], 1)
    inside, edge = margins(matrix, cells)
    mask, interior = truth.mask.ravel(), truth.interior.ravel()
    assert (mask[inside > unsure] == 1).all()
    assert (mask[(inside < -unsure) & (edge > unsure)] == 0).all()
    assert ((interior > 0) <= (mask > 0)).all()
    assert truth.present == (mask.sum() * 4 >= 12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_the_same_randomness_gives_the_same_window(square, seed):
    source = Source(square, "mask", (1,))
    first, second = (window(source, SIDE, (0.5, 2.0), np.random.default_rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 3), st.floats(1, 2))
def test_windows_show_hardly_more_than_the_picture(square, seed, low, factor):
    _, matrix = window(Source(square, "whole"), SIDE, (low, low * factor), np.random.default_rng(seed))
    assert SIDE / np.hypot(*matrix[:, 0]) <= max(PICTURE) / 0.8 + 1e-6


def test_truth_of_a_whole_picture_and_of_an_absent_concept(square):
    matrix = np.hstack([np.eye(2), np.zeros((2, 1))])
    whole = window_truth(Source(square, "whole"), "tumour", matrix, SIDE)
    absent = window_truth(Source(square, "absent"), "gland", matrix, SIDE)
    assert (whole.mask.min(), whole.present, whole.interior) == (1, True, None)
    assert (absent.mask.max(), absent.present, absent.interior.max()) == (0, False, 0)
    assert whole.mask.shape == absent.interior.shape == (SIDE // 2, SIDE // 2)


def test_a_region_without_objects_has_no_interior(square):
    matrix = np.hstack([np.eye(2), np.zeros((2, 1))])
    assert window_truth(Source(square, "mask", (1,)), "tumour", matrix, SIDE).interior is None


def test_sources_say_what_the_configuration_says(painted):
    items = load_items(painted)
    sources = concept_sources(
        {"masks": {"painted": [2]}, "whole": {"plain": ["dense"]}, "absent": {"painted": ["sparse"]}}, items
    )
    told = {(s.item.set, s.item.label, s.mode) for s in sources}
    assert told == {("painted", "dense", "mask"), ("painted", "sparse", "absent"), ("plain", "dense", "whole")}
    assert len(sources) == 3 + 3 + 2
    everywhere = concept_sources({"absent": {"plain": "all"}}, items)
    assert [s.mode for s in everywhere] == ["absent"] * 3


def test_objects_come_from_ids_or_from_connected_pieces(painted):
    item = load_items(painted, ["painted"])[0]
    mask, ids = truth_of(Source(item, "mask", None))
    assert ids.max() == 3
    assert (mask == (ids > 0)).all()
    mask, ids = truth_of(Source(item, "mask", (2,)))
    assert (ids[mask] == 0).all()  # ids of other classes are no objects of this one
    bare = Item(item.set, item.id, item.image, item.split, mask=item.mask)
    assert truth_of(Source(bare, "mask", (2,)))[1] is None
    mask, ids = truth_of(Source(bare, "mask", (2,), components=True))
    assert ids.max() == 1
    assert (mask == (ids == 1)).all()


def test_touching_objects_of_a_mask_are_parted_at_the_neck_where_the_configuration_says_so(tmp_path):
    ys, xs = np.mgrid[:40, :60]
    left, right = ((xs - x) ** 2 + (ys - 20) ** 2 < 81 for x in (20, 36))
    Image.fromarray((left | right).astype(np.uint8)).save(tmp_path / "mask.png")
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "image.png")
    item = Item("merged", "one", tmp_path / "image.png", "train", mask=tmp_path / "mask.png")
    (source,) = concept_sources({"masks": {"merged": [1]}, "split": ["merged"]}, [item])
    mask, ids = truth_of(source)
    np.testing.assert_array_equal(mask, ids > 0)
    assert ids.max() == 2
    assert len(np.unique(ids[left & ~right])) == len(np.unique(ids[right & ~left])) == 1


def test_nearest_warping_invents_no_class():
    labels = np.random.default_rng(0).choice([0, 3, 7], (40, 50)).astype(np.uint8)
    matrix = np.array([[0.0, -0.6, 30.0], [0.6, 0.0, 2.0]])
    assert set(np.unique(warp(labels, matrix, 48, nearest=True))) <= {0, 3, 7}


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_the_interior_is_1_in_the_middle_of_each_object_and_0_outside(seed, number):
    rng = np.random.default_rng(seed)
    ids = np.zeros((48, 48), np.int32)
    for index in range(1, number + 1):
        y, x, h, w = *rng.integers(0, 44, 2), *rng.integers(1, 12, 2)
        ids[y : y + h, x : x + w] = index * 3  # ids need not be without gaps
    inner = interior_map(ids)
    assert inner.dtype == np.float32
    assert (inner[ids == 0] == 0).all()
    assert (inner[ids > 0] > 0).all()
    for index in np.unique(ids[ids > 0]):
        assert inner[ids == index].max() == pytest.approx(1)


def test_the_interior_falls_towards_the_rim_also_between_touching_objects():
    ids = np.zeros((11, 20), np.int32)
    ids[1:10, 1:10], ids[1:10, 10:19] = 1, 2
    inner = interior_map(ids)
    assert inner[5, 5] == inner[5, 14] == pytest.approx(1)
    assert (np.diff(inner[5, 1:6]) > 0).all()
    assert inner[5, 9] < 0.3
    assert inner[5, 10] < 0.3


def test_an_empty_picture_has_an_empty_interior():
    assert not interior_map(np.zeros((5, 7), np.int32)).any()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 255, None]))
def test_stain_jitter_keeps_shape_and_type(seed, value):
    rng = np.random.default_rng(seed)
    shape = (*rng.integers(1, 20, 2), 3)
    pixels = rng.integers(0, 256, shape, np.uint8) if value is None else np.full(shape, value, np.uint8)
    before = pixels.copy()
    out = stain_jitter(pixels, rng)
    assert (out.dtype, out.shape) == (np.uint8, tuple(shape))
    np.testing.assert_array_equal(pixels, before)


def test_stain_jitter_changes_colours_and_keeps_structure():
    rng = np.random.default_rng(1)
    pixels = np.full((20, 20, 3), (225, 200, 220), np.uint8)
    pixels[5:15, 5:15] = (100, 60, 140)
    views = [stain_jitter(pixels, rng) for _ in range(20)]
    assert len({view.tobytes() for view in views}) > 10
    assert all(view[8:12, 8:12].mean() < view[:3, :3].mean() - 40 for view in views)
