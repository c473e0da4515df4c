from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import slidekick.grounding.windows
from slidekick.data.items import Item, load_items
from slidekick.data.triples import Triple
from slidekick.grounding.sizes import CLOSEST, CORNER_FIRST, CORNER_LAST, FILLED, MASK_STRIDE, OBJECT_SHARES, POSITIVE
from slidekick.grounding.tiles import warp
from slidekick.grounding.windows import BY_BOX, OBJECTS, Sampler, cut, interior_map, stain_jitter, window, window_at

SIDE = 64
BOX = (30, 20, 70, 52)  # x0, y0, x1, y1 of the painted square
PICTURE = (120, 90)  # width, height
STILL = np.hstack([np.eye(2), np.zeros((2, 1))])  # a matrix that leaves the picture as it is
CONCEPTS = {
    "nucleus": {"jitter": [0.8, 1.4], "synonyms": ["nuclei", "cell nucleus"], "weight": 2},
    "tumour": {"jitter": [0.8, 1.4], "synonyms": []},
    "stroma": {"jitter": [0.8, 1.4], "synonyms": ["connective tissue"]},
    "gland": {"jitter": [0.8, 1.4], "synonyms": []},  # never there
}
PLAN = {
    "seed": 3,
    "sides": {64: 0.7, 96: 0.3},
    "positive_share": 0.8,
    "further": {True: 0.9, False: 0.3},
    "objects": 0.5,
}


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    """A dark picture with one bright square, which is also its mask and its only object."""
    folder = tmp_path_factory.mktemp("square")
    drawn = np.zeros(PICTURE[::-1], np.uint8)
    x0, y0, x1, y1 = BOX
    drawn[y0:y1, x0:x1] = 1
    Image.fromarray(np.repeat(drawn[..., None] * 255, 3, axis=2)).save(folder / "image.png")
    Image.fromarray(drawn).save(folder / "mask.png")
    item = Item("squares", "one", folder / "image.png", "train", mask=folder / "mask.png")
    return Triple(item, "nucleus", "mask", (1,), "components")


@pytest.fixture(scope="module")
def sampler(painted):
    return Sampler(CONCEPTS, load_items(painted, split="train"), PLAN)


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
    pixels, matrix = window(square, SIDE, zoom_range, np.random.default_rng(seed))
    mask, weight, ids = cut(square, matrix, SIDE)
    zoom = np.hypot(*matrix[:, 0])
    unsure = 3 / min(zoom, 1)  # picture px: smoothing, and cells of two window px

    ys, xs = np.mgrid[:SIDE, :SIDE]
    inside, edge = margins(matrix, np.stack([xs.ravel(), ys.ravel()], 1))
    bright = pixels.reshape(-1, 3).mean(1)
    assert (bright[inside > unsure] > 200).all()
    assert (bright[(inside < -unsure) & (edge > unsure)] < 55).all()

    cells = np.stack([xs[::2, ::2].ravel() + 0.5, ys[::2, ::2].ravel() + 0.5], 1)
    inside, edge = margins(matrix, cells)
    for drawn in (mask.ravel(), ids.ravel() > 0):
        assert (drawn[inside > unsure] == 1).all()
        assert (drawn[(inside < -unsure) & (edge > unsure)] == 0).all()
    assert ((ids > 0) <= (mask > 0)).all()
    assert (weight == 1).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_the_same_randomness_gives_the_same_window(square, seed):
    first, second = (window(square, SIDE, (0.5, 2.0), np.random.default_rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 3), st.floats(1, 2))
def test_windows_show_hardly_more_than_the_picture_unless_the_zoom_ends_before(square, seed, low, factor):
    high = low * factor
    _, matrix = window(replace(square, mode="whole"), SIDE, (low, high), np.random.default_rng(seed))
    zoom = np.hypot(*matrix[:, 0])
    assert low - 1e-9 <= zoom <= high + 1e-9
    assert zoom >= min(FILLED * SIDE / max(PICTURE), high) - 1e-9


def test_truth_of_a_whole_picture_and_of_an_absent_concept(square):
    for mode, value in (("whole", 1), ("absent", 0)):
        mask, weight, ids = cut(replace(square, mode=mode), STILL, SIDE)
        assert (mask == value).all()
        assert (weight == 1).all()
        assert ids is None
        assert mask.shape == weight.shape == (SIDE // MASK_STRIDE, SIDE // MASK_STRIDE)


def test_a_region_without_objects_has_no_ids(square):
    mask, _, ids = cut(replace(square, objects="none"), STILL, SIDE)
    assert mask.any()
    assert ids is None


def test_half_of_the_windows_of_a_drawn_concept_hold_a_marked_pixel_for_sure(square):
    """With a window so small that one at random would mostly miss it."""
    held = [cut(square, window(square, 32, (2, 2), np.random.default_rng(s))[1], 32)[0].any() for s in range(60)]
    whole = replace(square, mode="whole")
    blind = [cut(square, window(whole, 32, (2, 2), np.random.default_rng(s))[1], 32)[0].any() for s in range(60)]
    assert np.mean(held) > np.mean(blind) + 0.1


@pytest.fixture
def partly(square, tmp_path):
    """The same, with the right half of the picture judged by nobody."""
    mask = np.array(Image.open(square.item.mask))
    mask[:, 50:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return replace(square, item=replace(square.item, mask=tmp_path / "mask.png", classes={1: "nucleus"}))


def test_cells_that_nobody_judged_have_no_weight(partly):
    mask, weight, ids = cut(partly, STILL, SIDE)
    assert set(np.unique(weight)) == {0, 1}
    assert (weight[:, :25] == 1).all()
    assert (weight[:, 25:] == 0).all()
    assert not mask[:, 25:].any()
    assert not ids[:, 25:].any()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(2, 60), st.integers(0, 58), st.integers(0, 28))
def test_a_window_at_an_object_holds_all_of_it_at_a_share_as_trained(square, seed, wide, tall, left, top):
    one = np.zeros(PICTURE[::-1], bool)
    one[top : top + tall, left : left + wide] = True
    _, matrix = window_at(np.zeros((*one.shape, 3), np.uint8), one, SIDE, np.random.default_rng(seed))
    zoom, (least, most) = np.hypot(*matrix[:, 0]), OBJECT_SHARES
    assert FILLED * SIDE / max(PICTURE) - 1e-9 <= zoom <= CLOSEST + 1e-9
    share = zoom * max(wide, tall) / SIDE
    assert share <= most + 1e-9 or zoom == pytest.approx(FILLED * SIDE / max(PICTURE)), "no more fits the window"
    assert share >= least - 1e-9 or zoom == pytest.approx(CLOSEST)
    corners = np.array([[left, top, 1], [left + wide - 1, top + tall - 1, 1]]) @ matrix.T
    assert (corners >= -zoom - 1).all()
    assert (corners <= SIDE + zoom + 1).all()


def test_objects_are_pointed_at_where_somebody_judged(partly):
    sampler = Sampler({"nucleus": CONCEPTS["nucleus"]}, [partly.item], PLAN | {"objects": 1.0})
    prompts = [prompt for index in range(40) for prompt in sampler.draw(0, index, 32)[1]]
    assert len(prompts) > 40
    for prompt in prompts:
        assert prompt.judged[prompt.mask >= 0.5].mean() > 0.5, "but for cells on the border"


def test_pools_hold_what_is_there_and_what_is_not_by_set(sampler, painted):
    number = {key: {name: len(rows) for name, rows in pool.items()} for key, pool in sampler.pools.items()}
    assert number == {
        ("nucleus", True): {"gbm40": 5},
        ("tumour", True): {"gbm40": 5},
        ("stroma", True): {"kather2016_sample": 1},
        ("stroma", False): {"gbm40": 5},
        ("gland", False): {"gbm40": 5, "kather2016_sample": 1},
    }
    assert sampler.names == ["nucleus", "tumour", "stroma"]
    np.testing.assert_allclose(sampler.weights, [0.5, 0.25, 0.25])
    assert Sampler({"gland": CONCEPTS["gland"]}, load_items(painted), PLAN).names == []


def same(one, other) -> bool:
    pixels, prompts = one
    again, others = other
    return (
        np.array_equal(pixels, again)
        and [(p.phrase, p.clicks, p.present) for p in prompts] == [(p.phrase, p.clicks, p.present) for p in others]
        and all(
            np.array_equal(getattr(p, field), getattr(o, field))
            for p, o in zip(prompts, others, strict=True)
            for field in ("mask", "judged", "interior")
        )
    )


def test_a_draw_follows_from_seed_step_and_index_alone(sampler, painted):
    first = sampler.draw(5, 1, SIDE)
    anew = Sampler(CONCEPTS, load_items(painted, split="train"), PLAN)
    anew.draw(4, 0, SIDE)
    assert same(first, anew.draw(5, 1, SIDE))
    seen = {sampler.draw(step, index, SIDE)[0].tobytes() for step in range(3) for index in range(3)}
    assert len(seen) == 9
    other = Sampler(CONCEPTS, load_items(painted, split="train"), PLAN | {"seed": 4})
    assert not same(other.draw(5, 1, SIDE), first)


def test_sides_follow_from_the_step_in_the_shares_of_the_plan(sampler):
    sides = [sampler.side(step) for step in range(400)]
    assert sides == [sampler.side(step) for step in range(400)]
    assert set(sides) == {64, 96}
    assert 0.6 < sides.count(64) / 400 < 0.8


@pytest.fixture(scope="module")
def prompts(sampler):
    return [prompt for step in range(150) for prompt in sampler.draw(step, 0, SIDE)[1]]


def test_draws_hold_windows_of_the_asked_size_and_one_to_three_prompts(sampler):
    draws = [sampler.draw(step, 0, side) for step in range(30) for side in (64, 96)]
    assert {pixels.shape for pixels, _ in draws} == {(64, 64, 3), (96, 96, 3)}
    assert {pixels.dtype for pixels, _ in draws} == {np.dtype(np.uint8)}
    assert {len(prompts) for _, prompts in draws} >= {1, 2}
    for pixels, prompts in draws:
        cells = pixels.shape[0] // MASK_STRIDE
        for prompt in prompts:
            assert prompt.mask.shape == prompt.judged.shape == (cells, cells)
            assert prompt.mask.dtype == prompt.judged.dtype == np.float32
            assert prompt.interior is None or (prompt.interior.shape, prompt.interior.dtype) == (
                (cells, cells),
                np.float32,
            )
        words = [prompt.phrase for prompt in prompts if not prompt.clicks]
        assert len(set(words)) == len(words)


def test_words_are_the_names_and_synonyms_of_the_configuration(prompts):
    said = Counter(prompt.phrase for prompt in prompts)
    assert set(said) == {None, "nucleus", "nuclei", "cell nucleus", "tumour", "stroma", "connective tissue", "gland"}
    assert said["nucleus"] > said["nuclei"] + said["cell nucleus"]


def test_there_are_no_words_only_where_there_are_clicks(prompts):
    assert all(prompt.clicks for prompt in prompts if prompt.phrase is None)
    assert any(prompt.phrase and prompt.clicks for prompt in prompts)


def test_what_is_absent_is_asked_by_words_and_has_nothing_to_draw(prompts):
    absent = [prompt for prompt in prompts if prompt.phrase == "gland"]
    assert len(absent) > 5
    for prompt in absent:
        assert (prompt.present, prompt.clicks) == (False, [])
        assert not prompt.mask.any()
        assert not prompt.interior.any()


def test_what_is_wholly_there_fills_the_window_and_tells_no_objects(prompts):
    asked = [prompt for prompt in prompts if prompt.phrase in ("stroma", "connective tissue") and not prompt.clicks]
    whole = [prompt for prompt in asked if prompt.present]
    assert 5 < len(whole) < len(asked), "elsewhere it is absent"
    assert all(prompt.present and (prompt.mask == 1).all() and prompt.interior is None for prompt in whole)


def kind(prompt) -> str:
    if not prompt.clicks:
        return "words"
    return "box" if prompt.clicks[0][2] == CORNER_FIRST else "click"


def test_windows_of_a_drawn_concept_ask_by_words_or_for_objects_in_the_plans_shares(square):
    item = replace(square.item, classes={1: "nucleus"})
    sampler = Sampler({"nucleus": CONCEPTS["nucleus"]}, [item], PLAN | {"objects": 0.4})
    draws = [sampler.draw(0, index, SIDE)[1] for index in range(300)]
    kinds = [Counter(map(kind, prompts)) for prompts in draws]
    assert all(found["words"] in (0, found.total()) for found in kinds), "never mixed"
    assert 0.3 < np.mean([not found["words"] for found in kinds]) < 0.5
    total = sum(kinds, Counter())
    assert total["box"] / (total["box"] + total["click"]) == pytest.approx(BY_BOX, abs=0.1)
    assert max(found.total() for found in kinds) == OBJECTS
    named = Counter((kind(prompt), prompt.phrase is not None) for prompts in draws for prompt in prompts)
    assert named["click", True] == 0, "a click with words means all of the concept, and is made in corrections"
    assert 0.3 < named["box", True] / total["box"] < 0.7


def test_a_box_means_one_object(prompts):
    boxed = [prompt for prompt in prompts if kind(prompt) == "box"]
    assert len(boxed) > 20
    for prompt in boxed:
        (x0, y0, _), (x1, y1, last) = prompt.clicks
        assert last == CORNER_LAST
        ys, xs = np.nonzero(prompt.mask >= 0.5)
        slack = 22  # px: what a box is loosened by, and a cell
        assert x0 - slack <= xs.min() * MASK_STRIDE
        assert xs.max() * MASK_STRIDE <= x1 + slack
        assert y0 - slack <= ys.min() * MASK_STRIDE
        assert ys.max() * MASK_STRIDE <= y1 + slack
        assert prompt.interior is not None, "one object has a middle, whatever it is"
        assert ((prompt.interior > 0) <= (prompt.mask > 0)).all()


def test_a_click_lies_on_what_is_to_be_drawn(prompts):
    clicked = [prompt for prompt in prompts if kind(prompt) == "click"]
    assert len(clicked) > 20
    for prompt in clicked:
        ((x, y, label),) = prompt.clicks
        assert label == POSITIVE
        assert prompt.mask[int(y / MASK_STRIDE), int(x / MASK_STRIDE)] >= 0.5


def test_pictures_that_would_not_fill_a_large_window_are_passed_over_for_those_that_do(square, tmp_path, monkeypatch):
    monkeypatch.setattr(slidekick.grounding.windows, "stain_jitter", lambda pixels, rng: pixels)
    green = np.full((300, 300, 3), (0, 200, 0), np.uint8)
    for name, array in (("image", green), ("mask", np.ones((300, 300), np.uint8))):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    small = replace(square.item, classes={1: "nucleus"})
    large = replace(small, id="two", image=tmp_path / "image.png", mask=tmp_path / "mask.png")
    concepts = {"nucleus": CONCEPTS["nucleus"] | {"jitter": [0.5, 1.0]}}

    def greens(items: list[Item], side: int) -> list[bool]:
        sampler = Sampler(concepts, items, PLAN | {"sides": {64: 1, 192: 1}})
        return [bool((sampler.draw(0, index, side)[0] == (0, 200, 0)).all()) for index in range(20)]

    assert all(greens([small, large], 192))
    assert {*greens([small, large], 64)} == {True, False}
    assert not any(greens([small], 192)), "where there is no other it is taken"


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
