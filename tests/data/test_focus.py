"""Focus: monotone under blur on real tissue, blind to contrast, mapped over a slide's tissue."""

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from slidekick.data.errors import InputError
from slidekick.data.focus import BLURRED_UM, MOST, blur_um, focus_map
from slidekick.data.slide import open_slide
from slidekick.data.tissue import TissueMask

MPP = 0.5


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """Colonic glands, DAB and haematoxylin: part of scikit-image."""
    return skimage.data.immunohistochemistry()[:, :, :3]


@settings(deadline=None, max_examples=30)
@given(x=st.integers(0, 384), y=st.integers(0, 384), first=st.floats(0.3, 4), more=st.floats(0.4, 3))
def test_more_blur_is_never_told_as_less(tissue, x, y, first, more):
    part = tissue[y : y + 128, x : x + 128].astype(np.float32)
    told = [blur_um(part, MPP), *(blur_um(cv2.GaussianBlur(part, (0, 0), s), MPP) for s in (first, first + more))]
    if not np.isnan(told).any():
        assert told[0] < told[1] < told[2]


@settings(deadline=None, max_examples=15)
@given(sigma=st.floats(1.5, 8), angle=st.floats(0, np.pi))
def test_an_edge_under_a_gaussian_is_told_in_micrometres(sigma, angle):
    y, x = np.mgrid[-100:100, -100:100].astype(np.float32)
    edge = np.where(x * np.cos(angle) + y * np.sin(angle) > 0, 0.0, 0.9)  # of density, so that the logarithm is undone
    density = cv2.GaussianBlur(edge, (0, 0), sigma)
    picture = np.repeat((256 * np.exp(-density) - 1)[:, :, None], 3, axis=2)
    expected = np.hypot(sigma, 1.0) * MPP  # 1 pixel is smoothed against noise
    assert blur_um(picture, MPP) == pytest.approx(expected, rel=0.06)


def test_paler_tissue_is_not_told_as_blurred(tissue):
    density = -np.log((tissue.astype(np.float64) + 1) / 256)
    pale = 256 * np.exp(-0.6 * density) - 1
    assert blur_um(pale, MPP) == pytest.approx(blur_um(tissue, MPP), rel=0.05)


def test_glass_has_no_edge_to_judge_by():
    assert np.isnan(blur_um(np.full((64, 64, 3), 240, np.uint8), MPP))


def slide_of(path, pixels, mpp=MPP):
    import tifffile

    scale = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="zlib", metadata=None, **scale)
    return path


def everywhere(slide) -> TissueMask:
    width, height = slide.dimensions
    return TissueMask(np.ones((height // 16, width // 16), bool), (16, 16))


def test_the_blurred_half_of_a_slide_is_found(tissue, tmp_path):
    sharp = np.tile(tissue, (2, 4, 1))
    # The sample is enlarged in print; at half its size its edges are as sharp as a scan's.
    sharp = cv2.resize(sharp, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    sharp = np.tile(sharp, (1, 2, 1))
    half = sharp.shape[1] // 2
    sharp[:, half:] = cv2.GaussianBlur(sharp[:, half:], (0, 0), 3)
    with open_slide(slide_of(tmp_path / "a.tif", sharp)) as slide:
        found = focus_map(slide, everywhere(slide))
        blurred = found.blur_um > BLURRED_UM
        np.testing.assert_array_equal(blurred, found.grid.coords[:, 0] >= half)
        assert found.blurred_share == 0.5
        assert found.judged == len(found.grid) == 16 <= MOST
        few = focus_map(slide, everywhere(slide), most=3)
        assert len(few.grid) == 3


def test_a_slide_without_tissue_or_too_coarse_has_no_verdict(tissue, tmp_path):
    with open_slide(slide_of(tmp_path / "a.tif", tissue)) as slide:
        found = focus_map(slide, TissueMask(np.zeros((32, 32), bool), (16, 16)))
        assert (found.median_um, found.blurred_share, found.judged) == (None, None, 0)
    with open_slide(slide_of(tmp_path / "b.tif", tissue, mpp=1.0)) as slide:
        assert focus_map(slide, everywhere(slide)).median_um is None
    with open_slide(tmp_path / "a.tif") as slide:
        slide.mpp = None
        with pytest.raises(InputError, match="--mpp"):
            focus_map(slide, everywhere(slide))
