"""Tissue painted on glass, with what else lies on slides."""

import cv2
import numpy as np
import pytest
import tifffile

from slidekick.data.slide import Region, open_slide
from slidekick.data.tissue import tissue_mask

SIDE = 1024
INKS = {"green": (30, 120, 90), "blue": (40, 40, 150), "black": (25, 25, 28), "red": (225, 50, 60)}
STAINS = {
    "H&E": ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), 1.0),
    "pale": ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), 0.25),
    "DAB": ((0.65, 0.70, 0.29), (0.27, 0.57, 0.78), 0.9),
    "blue": ((0.80, 0.45, 0.20), (0.75, 0.50, 0.25), 1.2),
}


def blob() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(mask, (400, 500), (260, 330), 20, 0, 360, 1, -1)
    return mask.astype(bool)


def painted(stain: str, seed: int = 0) -> np.ndarray:
    """Cells (first stain) in a matrix (second) within the blob, on glass that is not quite white."""
    rng = np.random.default_rng(seed)
    cells = cv2.GaussianBlur((rng.random((SIDE, SIDE)) < 0.02).astype(np.float32), (0, 0), 2) * 20
    matrix = 0.35 + cv2.GaussianBlur(rng.random((SIDE, SIDE)).astype(np.float32), (0, 0), 3)
    first, second, strength = STAINS[stain]
    density = (cells[..., None] * np.array(first) + matrix[..., None] * np.array(second)) * strength
    density[~blob()] = 0
    glass = np.array((242, 240, 243)) + rng.normal(0, 1.5, (SIDE, SIDE, 3))
    return np.clip(glass * np.exp(-density), 0, 255).astype(np.uint8)


@pytest.fixture
def masked(tmp_path):
    def look(pixels: np.ndarray, mpp: float | None = 4.0):
        path = tmp_path / "a.tif"
        scale = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
        tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="deflate", **scale)
        with open_slide(path) as slide:
            return tissue_mask(slide)

    return look


def overlap(found: np.ndarray, wanted: np.ndarray) -> float:
    shown = cv2.resize(found.astype(np.uint8), wanted.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
    return (shown & wanted).sum() / (shown | wanted).sum()


@pytest.mark.parametrize("mpp", [4.0, None])
@pytest.mark.parametrize("stain", STAINS)
def test_tissue_is_found_whatever_its_stain(masked, stain, mpp):
    assert overlap(masked(painted(stain), mpp).mask, blob()) > 0.9


@pytest.mark.parametrize("ink", INKS)
@pytest.mark.parametrize("stain", ["H&E", "DAB"])
def test_pen_is_no_tissue(masked, stain, ink):
    pixels, stroke = painted(stain), np.zeros((SIDE, SIDE), np.uint8)
    cv2.line(stroke, (760, 80), (900, 960), 1, 36)
    pixels[stroke > 0] = INKS[ink]
    pixels = cv2.GaussianBlur(pixels, (0, 0), 0.8)
    found = masked(pixels)
    shown = cv2.resize(found.mask.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST).astype(bool)
    assert shown[stroke > 0].mean() < 0.2
    assert overlap(found.mask, blob()) > 0.85


def test_glass_alone_holds_none_and_crumbs_are_left_out(masked):
    pixels = np.full((SIDE, SIDE, 3), 243, np.uint8)
    assert masked(pixels).share == 0
    pixels[500:510, 500:510] = (200, 80, 150)
    assert masked(pixels).share == 0


def test_fat_belongs_to_the_tissue_around_it(masked):
    pixels, hole = painted("H&E"), np.zeros((SIDE, SIDE), np.uint8)
    for x in range(300, 480, 30):
        cv2.circle(hole, (x, 500), 12, 1, -1)
    pixels[hole > 0] = 243
    found = masked(pixels)
    shown = cv2.resize(found.mask.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    assert shown[hole > 0].mean() > 0.95


def test_pale_fat_is_tissue_though_mostly_empty(masked):
    rng = np.random.default_rng(3)
    walls = np.zeros((SIDE, SIDE), np.float32)
    for x, y in rng.integers(0, SIDE, (9000, 2)):
        cv2.circle(walls, (int(x), int(y)), 9, 1.0, 1)
    density = cv2.GaussianBlur(walls, (0, 0), 0.7)[..., None] * np.array((0.1, 0.25, 0.1)) * blob()[..., None]
    assert np.median(density[blob()]) < 0.08  # paler than what is glass elsewhere
    glass = np.array((242, 240, 243)) + rng.normal(0, 1.5, (SIDE, SIDE, 3))
    found = masked(np.clip(glass * np.exp(-density), 0, 255).astype(np.uint8)).mask
    assert overlap(found, blob()) > 0.9


def test_what_glows_on_dark_is_tissue(masked):
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(900):
        angle, reach = rng.uniform(0, 6.28), rng.uniform(0, 1) ** 0.5
        middle = (int(400 + 200 * reach * np.cos(angle)), int(500 + 200 * reach * np.sin(angle)))
        cv2.circle(pixels, middle, 5, (0, 0, 180), -1)
    wanted = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(wanted, (400, 500), 205, 1, -1)
    assert overlap(masked(pixels).mask, wanted.astype(bool)) > 0.85


def test_the_share_in_a_region_is_that_of_its_pixels(masked):
    found = masked(painted("H&E"))
    assert found.share_in(Region(0, 0, SIDE, SIDE)) == pytest.approx(found.share, abs=0.01)
    assert found.share_in(Region(390, 490, 20, 20)) == 1
    assert found.share_in(Region(900, 10, 100, 100)) == 0
    assert found.share_in(Region(400, 500, 1, 1)) == 1
