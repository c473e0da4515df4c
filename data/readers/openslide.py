"""Whole slides and tiled TIFFs through OpenSlide. Label and macro pictures are never read.

OpenSlide's own error texts may quote identifiers from the file, so they are kept out of the messages.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from slidekick.data.errors import InputError
from slidekick.data.readers import dicom, tiff
from slidekick.data.readers.header import ASSOCIATED, Header, plausible

TABLES = {"dicom": dicom.tables_hold, "generic-tiff": tiff.tables_hold, "aperio": tiff.tables_hold}


def support(path: Path) -> float:
    """0.9 for a scanner's own format, 0.8 for a plain tiled TIFF, 0 for anything else.

    Damaged tables lead it and its libraries out of the file or to more memory than there is, which ends the process; so
    the tables of DICOM files and of plain and Aperio's TIFFs are looked over first.
    """
    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return 0.0
    if vendor is None or not TABLES.get(vendor, lambda _: True)(path):
        return 0.0
    return 0.8 if vendor == "generic-tiff" else 0.9


def open_file(path: Path) -> OpenSlideReader:
    """Raises InputError when the file is damaged or incomplete."""
    try:
        return OpenSlideReader(openslide.OpenSlide(path), path)
    except (openslide.OpenSlideError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: OpenSlide cannot open it: damaged, incomplete or of a kind it does not know; "
            "copy it again or convert it to a tiled TIFF"
        ) from error


class OpenSlideReader:
    """An open slide; see `Reader`."""

    def __init__(self, slide: openslide.OpenSlide, path: Path) -> None:
        self._slide = slide
        self._path = path
        levels = [(int(width), int(height)) for width, height in slide.level_dimensions]
        profile = slide.color_profile
        self.header = Header(
            vendor=slide.properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
            levels=levels,
            tiles=[_tile(slide, number, size) for number, size in enumerate(levels)],
            mpp=plausible(
                (_number(slide, openslide.PROPERTY_NAME_MPP_X), _number(slide, openslide.PROPERTY_NAME_MPP_Y))
            ),
            objective_power=_number(slide, openslide.PROPERTY_NAME_OBJECTIVE_POWER),
            associated=tuple(name for name in slide.associated_images if name in ASSOCIATED),
            icc=profile.tobytes() if profile is not None else None,
        )

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See `Reader.read`; transparent places (not scanned) come out white."""
        full, own = self.header.levels[0], self.header.levels[level]
        scale_x, scale_y = full[0] / own[0], full[1] / own[1]
        corner = (round(x * scale_x), round(y * scale_y))  # OpenSlide wants the corner at level 0
        try:
            picture = self._slide.read_region(corner, level, (width, height))
        except openslide.OpenSlideError as error:
            raise InputError(
                f"{self._path.name}: OpenSlide cannot decode the pixels at {corner[0]},{corner[1]}: damaged, or "
                "of a kind it does not know; copy it again or convert it to a tiled TIFF of 8-bit RGB"
            ) from error
        white = Image.new("RGB", picture.size, "white")
        white.paste(picture, mask=picture.getchannel("A"))
        return np.asarray(white)

    def close(self) -> None:
        self._slide.close()


def _tile(slide: openslide.OpenSlide, level: int, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a level's tiles; the whole level where none are stated."""
    stated = (_number(slide, f"openslide.level[{level}].tile-{side}") for side in ("width", "height"))
    width, height = (int(tile) if tile and tile >= 1 else whole for tile, whole in zip(stated, size, strict=True))
    return width, height


def _number(slide: openslide.OpenSlide, name: str) -> float | None:
    try:
        return float(slide.properties[name])
    except (KeyError, ValueError):
        return None
