"""What a reader tells of an open file before a pixel is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

PLAUSIBLE_MPP = (0.01, 100.0)  # µm per pixel; outside it a resolution tag speaks of print, not of a microscope
ASSOCIATED = ("label", "macro", "thumbnail", "overview", "map")  # names of further pictures that are told of


@dataclass(frozen=True)
class Header:
    """vendor: the scanner's format ("aperio"), or the picture's ("png"). levels: (width, height), largest first.

    mpp: (x, y) µm per level-0 pixel, or None where the file states none. tiles: (width, height) of the file's own tiles
    in each level, so that reads can keep to them; a level that is not tiled is one tile. associated: names of further
    pictures in the file, none of which is read. channels: of a fluorescence slide their names; empty for colours.
    icc: the embedded colour profile.
    """

    vendor: str
    levels: list[tuple[int, int]]
    tiles: list[tuple[int, int]]
    mpp: tuple[float, float] | None = None
    objective_power: float | None = None
    associated: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    icc: bytes | None = None


def plausible(mpp: tuple[float | None, float | None] | None) -> tuple[float, float] | None:
    """(x, y) µm per pixel as a file states them; None where they are no scale of a microscope."""
    if mpp is None or not all(value and math.isfinite(value) for value in mpp):
        return None
    return mpp if all(PLAUSIBLE_MPP[0] <= value <= PLAUSIBLE_MPP[1] for value in mpp) else None
