"""Pen on a slide: ink told from tissue by its colour and its smoothness, on the small picture that tissue is found on.

A slide that shows one colour over half of its tissue is stained so, and that is no ink. Folds are not told: on composed
slides neither saturation less intensity (Bautista & Yagi 2009) nor density against its surroundings, along lines or
not, found them with an F1 above 0.2. No learning: rules on optical density (Ruifrok & Johnston 2001), as in
`tissue.py`, which decides for itself what it leaves out.
"""

from __future__ import annotations

import cv2
import numpy as np

from slidekick.data.slide import Slide
from slidekick.data.tissue import DARK, TissueMask, optical_density, roughness

LEAST_DENSITY = 0.5  # of the densest colour of light ink
BLACK_DENSITY = 1.2  # of the palest colour of black ink
# Standard deviation of density within 5 x 5 pixels: ink is smoother than tissue. Bluish H&E has the hue of blue ink, so
# this tells them apart; both numbers are from composed slides of the val split.
ROUGH, SMOOTH_SHARE, WINDOW_PX = 0.06, 0.5, 9  # share of a window around a pixel of ink
MOST_OF_TISSUE = 0.5  # a colour that more of the tissue has is its stain


def pen_mask(slide: Slide, tissue: TissueMask) -> np.ndarray:
    """bool (h, w), of the size of the tissue's mask: where ink is. Raises InputError where pixels cannot be read."""
    picture = slide.thumbnail(max(tissue.mask.shape))
    if slide.header.channels or np.median(picture) < DARK:
        return np.zeros_like(tissue.mask)  # fluorescence: ink cannot be seen on its dark
    return pen_of(picture, tissue.mask)


def pen_share(pen: np.ndarray, tissue: TissueMask) -> float:
    """Share of all that lies on the glass, tissue and ink, that is ink; 0 where nothing does."""
    covered = pen | tissue.mask
    return float(pen.sum() / covered.sum()) if covered.any() else 0.0


def pen_of(picture: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """bool (H, W): where a picture uint8 (H, W, 3) of some 8 µm a pixel shows ink. tissue: bool (H, W)."""
    density = optical_density(picture)
    rough = roughness(density.mean(2), 5)
    kernel = np.ones((WINDOW_PX, WINDOW_PX), np.uint8)
    pen = np.zeros(tissue.shape, bool)
    for ink in _inks(density):
        if (ink & tissue).sum() > MOST_OF_TISSUE * tissue.sum():
            continue
        smooth = ink & (cv2.blur((ink & (rough < ROUGH)).astype(np.float32), kernel.shape) > SMOOTH_SHARE)
        pen |= cv2.dilate(smooth.astype(np.uint8), kernel).astype(bool) & ink
    return pen


def _inks(density: np.ndarray) -> tuple[np.ndarray, ...]:
    """bool (H, W) each: pixels with the colour of green, blue, black and red ink."""
    red, green, blue = (density[:, :, i] for i in range(3))
    least, most = density.min(2), density.max(2)
    return (
        (red > 1.25 * green) & (red > LEAST_DENSITY),  # green and light blue
        (red > 1.1 * green) & (blue < 0.5 * red) & (red > 0.8),  # blue; haematoxylin takes more green than red
        (least > BLACK_DENSITY) & (most - least < 0.35 * most),
        (green > 0.8) & (blue > 0.75 * green) & (red < 0.15 * green),  # red; eosin takes a quarter as much red
    )
