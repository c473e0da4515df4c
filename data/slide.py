"""Slides and regions: the one way pixels come in.

`open_slide` picks the reader that says it reads the file best; `Slide.roi` gives pixels with their scale and
place. Coordinates are (x, y) in level-0 pixels, origin top left. Nothing here knows of models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Region:
    """A rectangle of a slide in level-0 pixels, and the scale at which to read it.

    `mpp` is µm per pixel of the picture wanted; None reads level-0 pixels as they are.
    """

    x: int
    y: int
    width: int
    height: int
    mpp: float | None = None


@dataclass(frozen=True)
class Roi:
    """Pixels with their scale and place.

    pixels: uint8 (H, W, 3) RGB. mpp: (x, y) µm per pixel of `pixels`, or None where unknown.
    region: the level-0 rectangle it shows. source: the file's name without its folder.
    """

    pixels: np.ndarray
    mpp: tuple[float, float] | None
    region: Region
    source: str = ""

    @property
    def downsample(self) -> tuple[float, float]:
        """Level-0 pixels per pixel, (x, y)."""
        height, width = self.pixels.shape[:2]
        return self.region.width / width, self.region.height / height
