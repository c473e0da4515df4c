from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from slidekick.data import slide as slide_module
from slidekick.data.errors import InputError
from slidekick.data.slide import Region, open_slide, read_roi


def test_pyramid_tells_its_size_scale_and_levels(pyramid):
    with open_slide(pyramid) as slide:
        assert slide.dimensions == (720, 500)
        assert slide.mpp == pytest.approx((0.5, 0.5))
        assert slide.source == "pyramid.tif"
        assert [(level.width, level.height, level.downsample) for level in slide.levels] == [
            (720, 500, 1.0),
            (360, 250, 2.0),
            (180, 125, 4.0),
        ]


@settings(deadline=None, max_examples=40)
@given(x=st.integers(0, 719), y=st.integers(0, 499), data=st.data())
def test_any_region_inside_reads_the_very_pixels_of_level_0(pyramid, level0, x, y, data):
    width = data.draw(st.integers(1, 720 - x))
    height = data.draw(st.integers(1, 500 - y))
    roi = read_roi(pyramid, (x, y, width, height))
    assert np.array_equal(roi.pixels, level0[y : y + height, x : x + width])
    assert roi.downsample == (1.0, 1.0)
    assert roi.mpp == pytest.approx((0.5, 0.5))


@settings(deadline=None, max_examples=40)
@given(x=st.integers(-50, 800), y=st.integers(-50, 600), w=st.integers(-5, 900), h=st.integers(-5, 700))
def test_a_region_is_read_exactly_when_it_is_inside(pyramid, x, y, w, h):
    inside = x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= 720 and y + h <= 500
    if inside:
        assert read_roi(pyramid, (x, y, w, h)).pixels.shape == (h, w, 3)
    else:
        with pytest.raises(InputError, match=r"pyramid\.tif: region .* is not inside the 720 x 500"):
            read_roi(pyramid, (x, y, w, h))


@settings(deadline=None, max_examples=30)
@given(mpp=st.floats(0.5, 5.0), x=st.integers(0, 300), y=st.integers(0, 200), side=st.integers(100, 290))
def test_reading_at_a_scale_shows_the_same_place_as_scaling_level_0(pyramid, level0, mpp, x, y, side):
    roi = read_roi(pyramid, (x, y, side, side), mpp=mpp)
    expected = max(1, round(side * 0.5 / mpp))
    assert roi.pixels.shape == (expected, expected, 3)
    assert roi.mpp == pytest.approx((side * 0.5 / expected,) * 2)
    part = Image.fromarray(level0[y : y + side, x : x + side])
    ours = roi.pixels.astype(float)
    theirs = np.asarray(part.resize((expected, expected), Image.Resampling.BICUBIC)).astype(float)
    assert np.abs(ours - theirs).mean() < 3.0  # grey values; half a pixel's shift of these blobs costs more


def test_a_stated_scale_serves_a_file_without_one_and_reads_level_0(make_pyramid):
    roi = read_roi(make_pyramid("plain.tif"), mpp=0.25)
    assert roi.mpp == (0.25, 0.25)
    assert roi.pixels.shape == (160, 200, 3)
    assert read_roi(make_pyramid("plain.tif")).mpp is None


def test_a_print_resolution_is_not_taken_for_a_microscope_scale(make_pyramid):
    with open_slide(make_pyramid("print.tif", mpp=352.8)) as slide:  # 72 dots an inch
        assert slide.mpp is None


def test_a_scale_asked_of_a_slide_without_one_names_the_mend(make_pyramid):
    with open_slide(make_pyramid("plain.tif")) as slide, pytest.raises(InputError, match="--mpp"):
        slide.roi(Region(0, 0, 10, 10, mpp=1.0))


def test_a_scale_far_finer_than_the_scan_is_refused(make_pyramid):
    with pytest.raises(InputError, match=r"coarse\.tif: 0\.5 µm .* finer than its own 8; .* 8 or more"):
        read_roi(make_pyramid("coarse.tif", mpp=8.0), mpp=0.5)


@pytest.mark.parametrize("mpp", [0, -1.0, float("nan"), float("inf"), "half"])
def test_a_scale_that_is_no_scale_is_refused(pyramid, mpp):
    with pytest.raises(InputError, match="µm per pixel above 0"):
        read_roi(pyramid, mpp=mpp)


def test_too_much_for_one_read_names_both_mends_and_a_coarser_scale_is_one(pyramid, monkeypatch):
    monkeypatch.setattr(slide_module, "READ_LIMIT_PX", 100_000)
    with pytest.raises(InputError, match=r"720 x 500 pixels to read .* --region x,y,w,h or a coarser --mpp"):
        read_roi(pyramid)
    assert read_roi(pyramid, mpp=1.0).pixels.shape == (250, 360, 3)
    assert read_roi(pyramid, (0, 0, 100, 100)).pixels.shape == (100, 100, 3)


@given(limit=st.integers(1, 1000))
@settings(deadline=None, max_examples=25)
def test_a_thumbnail_keeps_to_its_limit_and_the_shape(pyramid, limit):
    with open_slide(pyramid) as slide:
        height, width = slide.thumbnail(limit).shape[:2]
    assert max(width, height) == min(limit, 720)
    assert abs(height - width * 500 / 720) <= 1


@given(limit=st.integers(1, 1000), strip=st.integers(1, 10**6))
@settings(deadline=None, max_examples=25)
def test_a_thumbnail_read_in_strips_is_the_one_read_at_once(pyramid, limit, strip):
    with open_slide(pyramid) as slide:
        whole = slide.thumbnail(limit)
        with mock.patch.object(slide_module, "STRIP_PX", strip):
            in_strips = slide.thumbnail(limit)
    assert in_strips.shape == whole.shape
    assert np.abs(in_strips.astype(int) - whole).mean() < 3


def test_a_thumbnail_of_a_level_larger_than_one_read_is_made_too(pyramid, monkeypatch):
    monkeypatch.setattr(slide_module, "READ_LIMIT_PX", 100_000)
    monkeypatch.setattr(slide_module, "STRIP_PX", 50_000)
    with open_slide(pyramid) as slide:
        assert slide.thumbnail(400).shape == (278, 400, 3)


def test_identifiers_in_a_slide_reach_no_error(make_pyramid):
    path = make_pyramid("named.tif", text="Patient: Jane Doe 19620304")
    content = bytearray(path.read_bytes())
    for start in range(len(content) // 3, len(content) - 400, 97):
        content[start : start + 20] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_roi(path)
    assert "Jane" not in str(caught.value)
    assert "named.tif" in str(caught.value)


def test_a_slide_never_shows_its_label_or_macro(tmp_path):
    """An Aperio file with label and macro pages: only the scanned tissue can be reached."""
    import tifffile

    tissue = np.full((256, 256, 3), 200, np.uint8)
    black = np.zeros((64, 64, 3), np.uint8)
    path = tmp_path / "aperio.svs"
    with tifffile.TiffWriter(path) as writer:
        options = {"photometric": "rgb", "metadata": None, "compression": "zlib"}
        head = "Aperio Image Library v11\r\n256x256 [0,0 256x256] (128x128)|AppMag = 20|MPP = 0.5"
        writer.write(tissue, tile=(128, 128), description=head, **options)
        for name in ("label", "macro"):
            writer.write(black, description=f"Aperio Image Library\r\n{name} 64x64", subfiletype=9, **options)
    with open_slide(path) as slide:
        assert slide.vendor == "aperio"
        assert slide.objective_power == 20
        assert slide.thumbnail(64).min() >= 195
        assert [(level.width, level.height) for level in slide.levels] == [(256, 256)]
