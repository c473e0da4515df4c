"""Tiles: a pyramid that fits together and shows the slide, and slides that stay open no longer than they should."""

import io
import threading

import numpy as np
import pytest
from PIL import Image

from slidekick.apps.serving.slides import TILE, Shelf, descriptor, facts, last_level, tile
from slidekick.data import open_slide
from slidekick.data.errors import InputError


@pytest.fixture
def picture(tmp_path):
    """700 x 300 px of smooth colour: red grows to the right, green downwards."""
    y, x = np.mgrid[:300, :700]
    pixels = np.stack([x / 700 * 255, y / 300 * 255, np.full_like(x, 90)], -1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "s.png")
    return tmp_path / "s.png"


def mosaic(slide, level: int) -> np.ndarray:
    rows, row = [], 0
    while True:
        parts, column = [], 0
        try:
            while True:
                parts.append(np.asarray(Image.open(io.BytesIO(tile(slide, level, column, row)))))
                column += 1
        except InputError:
            if not parts:
                return np.concatenate(rows)
            rows.append(np.concatenate(parts, 1))
            row += 1


def test_every_level_is_the_slide_at_its_size(picture):
    with open_slide(picture) as slide:
        last = last_level(slide)
        assert last == 10
        whole = Image.open(picture)
        for level in range(last + 1):
            step = 2 ** (last - level)
            shown = mosaic(slide, level)
            assert shown.shape[:2] == (-(-300 // step), -(-700 // step))
            small = np.asarray(whole.resize(shown.shape[1::-1], Image.BOX)).astype(int)
            assert np.abs(shown - small).mean() < 6, f"level {level}"


def test_places_without_a_tile_are_refused(picture):
    with open_slide(picture) as slide:
        for place in ((11, 0, 0), (-1, 0, 0), (10, 3, 0), (10, 0, 2), (10, -1, 0), (0, 1, 0), (10**9, 0, 0)):
            with pytest.raises(InputError, match="has no"):
                tile(slide, *place)
        assert len(tile(slide, 10, 2, 1)) > 100


def test_what_a_viewer_is_told_holds_size_and_scale_alone(picture):
    with open_slide(picture, mpp=0.5) as slide:
        told = facts(slide)
        assert (told["width"], told["height"], told["mpp"], told["levels"], told["tile"]) == (
            700,
            300,
            [0.5, 0.5],
            11,
            TILE,
        )
        assert set(told) == {"width", "height", "mpp", "objective_power", "vendor", "levels", "tile"}
        assert 'Width="700" Height="300"' in descriptor(slide)


def closed(slide) -> bool:
    try:
        tile(slide, 0, 0, 0)
    except Exception:
        return True
    return False


def test_the_latest_slides_stay_open_and_one_in_use_is_not_closed(picture, tmp_path):
    files = []
    for name in "abc":
        file = tmp_path / f"{name}.png"
        file.write_bytes(picture.read_bytes())
        files.append(file)
    shelf = Shelf(most=2)
    with shelf.open(files[0]) as first:
        with shelf.open(files[1]) as second, shelf.open(files[2]):
            assert tile(first, 0, 0, 0), "put away, but in use"
        with shelf.open(files[1]) as again:
            assert again is second
    assert closed(first)
    shelf.close()
    assert closed(second)


def test_a_slide_that_changed_is_opened_anew_and_a_missing_one_is_told(picture):
    shelf = Shelf()
    with shelf.open(picture) as slide:
        assert slide.dimensions == (700, 300)
    Image.new("RGB", (40, 30)).save(picture)
    with shelf.open(picture) as slide:
        assert slide.dimensions == (40, 30)
    picture.unlink()
    with pytest.raises(InputError, match="not there any more"), shelf.open(picture):
        pass


def test_threads_share_one_slide(picture):
    shelf, seen, failed = Shelf(), set(), []

    def look(number: int) -> None:
        try:
            with shelf.open(picture) as slide:
                seen.add(id(slide))
                for level in range(11):
                    tile(slide, level, 0, 0)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=look, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(seen) == 1
