"""Pen drawn on real tissue: found where it is, in every colour, and not where a stain has its hue."""

import cv2
import numpy as np
import pytest
import skimage.data
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from slidekick.data.artefacts import pen_mask, pen_of, pen_share
from slidekick.data.slide import open_slide
from slidekick.data.tissue import TissueMask, tissue_mask

INKS = {"green": (30, 110, 60), "blue": (40, 60, 150), "black": (25, 25, 30), "red": (225, 50, 60)}
HAEMATOXYLIN, EOSIN = np.array((0.65, 0.70, 0.29)), np.array((0.07, 0.99, 0.11))


def slide_picture() -> tuple[np.ndarray, np.ndarray]:
    """Real tissue shrunk to 8 µm or so on glass, and where it is."""
    pixels = np.full((400, 500, 3), 242, np.uint8)
    tissue = np.zeros((400, 500), bool)
    pixels[100:356, 80:336] = cv2.resize(skimage.data.immunohistochemistry()[:, :, :3], None, fx=0.5, fy=0.5)
    tissue[100:356, 80:336] = True
    return pixels, tissue


def drawn(pixels: np.ndarray, ink, ends, width: int) -> np.ndarray:
    """Where a line over the picture lies, which is drawn in place; the ink takes most of the light."""
    mask = np.zeros(pixels.shape[:2], np.uint8)
    cv2.line(mask, ends[:2], ends[2:], 1, width)
    line = mask.astype(bool)
    pixels[line] = (0.15 * pixels[line] + 0.85 * np.array(ink)).astype(np.uint8)
    return line


@settings(max_examples=30, deadline=None)
@given(
    ink=st.sampled_from(sorted(INKS)),
    ends=st.tuples(st.integers(20, 480), st.integers(20, 90), st.integers(20, 480), st.integers(20, 390)),
    width=st.integers(14, 40),
)
def test_a_line_is_found_where_it_was_drawn(ink, ends, width):
    pixels, tissue = slide_picture()
    line = drawn(pixels, INKS[ink], ends, width)
    found = pen_of(pixels, tissue)
    assert (found & line).sum() / max(found.sum(), 1) > 0.9
    glass = line & ~tissue
    assert (found & glass).sum() >= 0.85 * glass.sum()  # the rim of a short, thin line is more than a tenth of it


@pytest.mark.parametrize("stain", [HAEMATOXYLIN, EOSIN, np.array((0.80, 0.65, 0.25))])
def test_rough_tissue_of_any_hue_is_no_ink(stain):
    rng = np.random.default_rng(0)
    density = cv2.GaussianBlur(rng.random((400, 500)).astype(np.float32), (0, 0), 1) * 3
    pixels = np.full((400, 500, 3), 242.0)
    tissue = np.zeros((400, 500), bool)
    tissue[50:350, 50:450] = True
    pixels[tissue] *= np.exp(-density[tissue][:, None] * stain)
    assert pen_of(pixels.astype(np.uint8), tissue).sum() < 0.01 * tissue.sum()


def test_a_colour_of_most_of_the_tissue_is_its_stain():
    pixels, tissue = slide_picture()
    pixels[tissue] = INKS["green"]
    assert not pen_of(pixels, tissue).any()


def test_the_share_is_of_tissue_and_ink_together(tmp_path):
    pixels, _ = slide_picture()
    line = drawn(pixels, INKS["blue"], (20, 40, 480, 40), 30)
    path = tmp_path / "a.tif"
    scale = {"resolution": (1250, 1250), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="deflate", **scale)
    with open_slide(path) as slide:
        tissue = tissue_mask(slide)
        pen = pen_mask(slide, tissue)
    assert pen.shape == tissue.mask.shape
    expected = line.sum() / (line.sum() + 256 * 256)
    assert pen_share(pen, tissue) == pytest.approx(expected, abs=0.03)


def test_glass_and_the_dark_of_fluorescence_hold_no_pen(tmp_path):
    nothing = TissueMask(np.zeros((50, 50), bool), (1.0, 1.0))
    assert pen_share(nothing.mask, nothing) == 0
    rng = np.random.default_rng(0)
    dark = np.zeros((600, 600, 3), np.uint8)
    dark[200:400, 200:400, 2] = rng.integers(90, 255, (200, 200))
    path = tmp_path / "dapi.tif"
    tifffile.imwrite(path, dark, tile=(256, 256), photometric="rgb", compression="deflate")
    with open_slide(path) as slide:
        tissue = tissue_mask(slide)
        assert tissue.mask.any()
        assert not pen_mask(slide, tissue).any()
