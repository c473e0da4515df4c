"""Composed slides: what the truth says is what a reader sees."""

import json

import numpy as np
import pytest
from PIL import Image
from slide_files import LUNG_COLOURS, lung_items

from slidekick.data.composed import compose_slides, draw_layout, load_cases, paint, truth
from slidekick.data.errors import InputError
from slidekick.data.layout import GLASS
from slidekick.data.slide import open_slide

SIZES = {"rows": (12, 16), "columns": (12, 16)}


@pytest.fixture(scope="module")
def lung(tmp_path_factory):
    return lung_items(tmp_path_factory.mktemp("lung"))


@pytest.fixture(scope="module")
def composed(lung, tmp_path_factory):
    return compose_slides(lung, tmp_path_factory.mktemp("composed"), 3, 11, "test", **SIZES)


def rows_of(file) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_slides_are_pyramids_of_the_stated_size_and_scale(composed):
    for row in rows_of(composed):
        with open_slide(composed.parent / row["file"]) as slide:
            assert slide.dimensions == (row["width"], row["height"])
            assert slide.mpp == pytest.approx((row["mpp"], row["mpp"]), rel=1e-3)
            assert len(slide.levels) > 1


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_both_readers_see_the_planned_tissue_in_its_place(lung, tmp_path, reader):
    layout, pools = draw_layout(load_cases(lung), 12, **SIZES)
    paint(layout, pools, tmp_path / "slide.tif", 0.5)
    if reader == "openslide":
        import openslide

        whole = openslide.OpenSlide(tmp_path / "slide.tif").get_thumbnail(layout.cells.shape[::-1])
        seen = np.asarray(whole.convert("RGB").resize(layout.cells.shape[::-1], Image.Resampling.BOX), float)
    else:
        with open_slide(tmp_path / "slide.tif") as slide:
            assert slide.reader == "tiff"
            seen = np.asarray(Image.fromarray(slide.thumbnail(2000)).resize(layout.cells.shape[::-1]), float)
    inside = layout.tissue > 0.999
    inked = [stroke for stroke in layout.strokes]
    for index, name in enumerate(layout.tissues):
        of_it = seen[inside & (layout.cells == index)]
        strongest = np.argmax(LUNG_COLOURS[name])
        assert (of_it.argmax(1) == strongest).mean() > (0.8 if inked else 0.95)
    glass = seen[layout.cells == GLASS]
    assert np.median(glass) > 225


def test_the_truth_lists_what_is_absent(composed):
    for row in rows_of(composed):
        assert {*row["tissues"], *row["absent"]} == {*LUNG_COLOURS}
        assert sum(one["share"] for one in row["tissues"].values()) == pytest.approx(1, abs=1e-3)
        for box in [*row["pieces"], *(box for one in row["tissues"].values() for box in one["boxes"])]:
            assert 0 <= box[0] < box[2] <= row["width"]
            assert 0 <= box[1] < box[3] <= row["height"]


def test_the_same_seed_paints_the_same_bytes_and_what_is_there_is_kept(lung, composed, tmp_path):
    again = compose_slides(lung, tmp_path, 1, 11, "test", **SIZES)
    first = rows_of(composed)[0]["file"]
    assert (tmp_path / first).read_bytes() == (composed.parent / first).read_bytes()
    (tmp_path / first).write_bytes(b"kept")
    compose_slides(lung, tmp_path, 1, 11, "test", **SIZES)
    assert (tmp_path / first).read_bytes() == b"kept"
    assert rows_of(again)[0] == rows_of(composed)[0]


def test_the_scale_does_not_change_what_is_there(lung):
    cases = load_cases(lung)
    layout, _ = draw_layout(cases, 3, **SIZES)
    fine, coarse = truth(layout, cases, 0.25), truth(layout, cases, 1.0)
    assert fine["width"] == 4 * coarse["width"]
    assert [one["share"] for one in fine["tissues"].values()] == [one["share"] for one in coarse["tissues"].values()]


def test_pictures_of_no_case_are_told(tmp_path):
    with pytest.raises(InputError, match="no picture of a set"):
        compose_slides([], tmp_path, 1, 0, "test")


def test_nothing_is_left_beside_the_slides(composed):
    assert {file.suffix for file in composed.parent.iterdir()} == {".tif", ".jsonl"}
