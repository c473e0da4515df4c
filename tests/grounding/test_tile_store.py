"""Tiles of a slide: where they lie, what is kept of them, and that nothing depends on how it is asked for."""

import contextlib
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from slidekick.data.errors import OutputError
from slidekick.data.slide import open_slide
from slidekick.grounding import tile_store
from slidekick.grounding.sizes import MASK_STRIDE
from slidekick.grounding.tile_store import SlideTiling, TileLog, TileStore
from slidekick.grounding.tiles import OVERLAP, TILE, Canvas, Tiling

SMALL = {"TILE": 64, "OVERLAP": 16, "STEP": 48}
sides = st.integers(1, 700)


def small_tiles():
    return mock.patch.multiple(tile_store, **SMALL)


@contextlib.contextmanager
def store_of(folder, tiling, seen, question=None):
    """What was `seen` (tile -> presence and maps of each concept), by way of a file."""
    question = question or {"of": "these"}
    log = TileLog(folder, question)
    for tile, what in seen.items():
        log.add(tile, what)
    log.close()
    store = TileStore(folder, question, tiling, len(next(iter(seen.values()))))
    yield store
    store.close()


def random_maps(rng, side=32):
    return rng.random((2, side, side), np.float32)


@settings(deadline=None)
@given(sides, sides, st.integers(8, 90))
def test_tiles_cover_the_slide_and_lie_where_their_cells_do(width, height, unit):
    tiling, cell = SlideTiling(width, height, unit), unit * MASK_STRIDE / OVERLAP
    assert tiling.shape[0] * cell >= height
    assert (tiling.shape[1] - 1) * cell < width
    covered = np.zeros(tiling.shape, bool)
    for tile in range(tiling.number):
        row, column = tiling.place(tile)
        covered[row : row + TILE // 2, column : column + TILE // 2] = True
        region = tiling.region(tile)
        assert (region.x, region.y) == (round(column * cell), round(row * cell))
        assert region.width > 0 < region.height
        assert region.x + region.width <= width
        assert region.y + region.height <= height
    assert covered.all()


@given(st.floats(0.05, 4), sides)
def test_the_zoom_is_the_one_asked_for_to_a_few_percent(zoom, side):
    slide = mock.Mock(dimensions=(side, side), source="x")
    assert OVERLAP / SlideTiling.over(slide, zoom).unit == pytest.approx(zoom, rel=0.035)


@settings(deadline=None, max_examples=20)
@given(st.tuples(sides, sides), st.integers(0, 99))
def test_a_tile_shows_the_slide_and_its_mirror_beyond(tmp_path_factory, size, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    path = tmp_path_factory.mktemp("tile") / "slide.png"
    Image.fromarray(pixels).save(path)
    with open_slide(path, 0.5) as slide:
        tiling = SlideTiling.over(slide, 1.0)
        tile = tiling.number - 1
        shown, region = tiling.read(slide, tile), tiling.region(tile)
    assert (shown.shape, shown.dtype) == ((TILE, TILE, 3), np.uint8)
    own = pixels[region.y :, region.x :]
    np.testing.assert_array_equal(shown[: own.shape[0], : own.shape[1]], own)
    if own.shape[0] < TILE:
        np.testing.assert_array_equal(shown[own.shape[0], : own.shape[1]], own[-1])


@settings(deadline=None, max_examples=30)
@given(st.tuples(st.integers(20, 300), st.integers(20, 300)), st.integers(0, 10**6), st.data())
def test_a_window_is_that_part_of_the_whole_to_the_bit(tmp_path_factory, size, seed, data):
    rng = np.random.default_rng(seed)
    with small_tiles():
        tiling = SlideTiling(*size, 16)
        seen = {
            tile: [(1.0, random_maps(rng) if rng.random() < 0.7 else None)]
            for tile in rng.permutation(tiling.number).tolist()
            if rng.random() < 0.8
        } or {0: [(1.0, random_maps(rng))]}
        with store_of(tmp_path_factory.mktemp("log"), tiling, seen) as store:
            whole = store.window(0, *(slice(0, side) for side in tiling.shape))
            for _ in range(4):
                cuts = []
                for side in tiling.shape:
                    start = data.draw(st.integers(0, side - 1))
                    cuts.append(slice(start, data.draw(st.integers(start + 1, side))))
                for part, all_of in zip(store.window(0, *cuts), whole, strict=True):
                    np.testing.assert_array_equal(part, all_of[tuple(cuts)])
                if not store.shows(0, *cuts):
                    assert (whole[0][tuple(cuts)] < 0.5).all()


@pytest.mark.parametrize("size", [(1400, 900), (640, 640), (2000, 300)])
def test_tiles_are_blended_as_those_of_a_picture(tmp_path, size):
    rng = np.random.default_rng(0)
    tiling = SlideTiling(*size, OVERLAP)
    seen = {tile: [(0.0, random_maps(rng, TILE // 2) if tile % 3 else None)] for tile in range(tiling.number)}
    places = tuple(tuple(2 * start for start in tiling.place(tile)) for tile in range(tiling.number))
    canvas = Canvas(Tiling(*size[::-1], (TILE, TILE), places))
    for place, [(presence, maps)] in zip(places, seen.values(), strict=True):
        canvas.add(place, Tiling(*size[::-1], (TILE, TILE), places).taper, maps, presence)
    with store_of(tmp_path, tiling, seen) as store:
        drawn, interior = store.window(0, *(slice(0, side) for side in tiling.shape))
    np.testing.assert_allclose(drawn, canvas.drawn, atol=0.51 / 256)
    np.testing.assert_allclose(interior, canvas.interior, atol=0.51 / 256)


@settings(deadline=None, max_examples=20)
@given(st.floats(0, 1, width=32))
def test_what_is_kept_of_a_probability_is_on_its_side_of_a_half(tmp_path_factory, value):
    with small_tiles():
        tiling = SlideTiling(64, 64, 16)
        seen = {0: [(0.0, np.full((2, 32, 32), value, np.float32))]}
        with store_of(tmp_path_factory.mktemp("log"), tiling, seen) as store:
            drawn, _ = store.window(0, slice(0, 32), slice(0, 32))
    assert ((drawn >= 0.5) == (value >= 0.5)).all()


def three_tiles(folder):
    rng = np.random.default_rng(3)
    with small_tiles():
        tiling = SlideTiling(100, 64, 16)
        question = {"of": "these"}
        log = TileLog(folder, question)
        ends = [(folder / "0000.log").stat().st_size]
        for tile in range(tiling.number):
            log.add(tile, [(float(tile), random_maps(rng)), (-1.0, None)])
            ends.append((folder / "0000.log").stat().st_size)
        log.close()
    return tiling, question, ends


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_log_torn_anywhere_keeps_all_whole_records_before(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("log")
    tiling, question, ends = three_tiles(folder)
    content = (folder / "0000.log").read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    (folder / "0000.log").write_bytes(content[:cut])
    with small_tiles(), contextlib.closing(TileStore(folder, question, tiling, 2)) as store:
        assert store.done().sum() == max(sum(end <= cut for end in ends) - 1, 0)
        assert bool(store.strangers) == (cut < ends[0]), "what is torn within its first line is nobody's"


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_flipped_bit_never_comes_back_as_seen(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("log")
    tiling, question, _ = three_tiles(folder)
    content = bytearray((folder / "0000.log").read_bytes())
    with small_tiles(), contextlib.closing(TileStore(folder, question, tiling, 2)) as before:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        (folder / "0000.log").unlink()
        (folder / "0000.log").write_bytes(content)
        with contextlib.closing(TileStore(folder, question, tiling, 2)) as store:
            assert not store.done().all()
            for tile in np.flatnonzero(store.done()).tolist():
                np.testing.assert_array_equal(store.presence[tile], before.presence[tile])
                np.testing.assert_array_equal(store._maps(tile, 0), before._maps(tile, 0))


def test_a_log_of_another_question_is_left_alone_and_named(tmp_path):
    tiling, question, _ = three_tiles(tmp_path)
    with contextlib.closing(TileStore(tmp_path, question | {"more": 1}, tiling, 2)) as store:
        assert not store.done().any()
        assert store.strangers == [tmp_path / "0000.log"]
    log = TileLog(tmp_path, question)
    log.close()
    assert (tmp_path / "0001.log").exists(), "and never written over"


def test_of_a_tile_that_two_have_seen_one_counts(tmp_path):
    rng = np.random.default_rng(0)
    with small_tiles():
        tiling, maps = SlideTiling(64, 64, 16), random_maps(rng)
        log = TileLog(tmp_path, {"of": "these"})
        log.add(0, [(1.0, maps)])
        log.close()
        with store_of(tmp_path, tiling, {0: [(1.0, maps)]}) as store:
            drawn, _ = store.window(0, slice(0, 32), slice(0, 32))
    np.testing.assert_allclose(drawn, maps[0], atol=0.51 / 256)


def test_what_is_held_in_memory_is_bounded(tmp_path):
    rng = np.random.default_rng(0)
    with small_tiles(), mock.patch.object(tile_store, "KEPT_BYTES", 5 * 2 * 32 * 32):
        tiling = SlideTiling(400, 400, 16)
        with store_of(tmp_path, tiling, {t: [(1.0, random_maps(rng))] for t in range(tiling.number)}) as store:
            first = store.window(0, *(slice(0, side) for side in tiling.shape))
            assert len(store._kept) <= 5
            np.testing.assert_array_equal(store.window(0, *(slice(0, side) for side in tiling.shape)), first)


def test_a_log_that_cannot_be_begun_is_told_with_what_stays(tmp_path):
    with pytest.raises(OutputError, match=r"none: cannot write \(no such file or directory\).*what was seen is kept"):
        TileLog(tmp_path / "none", {})
