"""Readers of slide files: each says how well it reads a file, the best one opens it. No scaling is done here.

A reader is a module beside this file with `support(path) -> float` (0 = cannot, 1 = made for it; it looks at
the content, not the name, and never raises) and `open_file(path) -> Reader`. A new reader is one new file and
one line in READERS.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from slidekick.data.errors import InputError

READERS = ("openslide", "pillow")
FORMATS = "PNG, JPEG, TIFF, SVS, NDPI, MRXS, SCN, DICOM"  # for messages; the readers decide by content


class Reader(Protocol):
    """An open file. levels: (width, height) of each, largest first. mpp: (x, y) of level 0 or None."""

    vendor: str
    levels: list[tuple[int, int]]
    mpp: tuple[float, float] | None
    objective_power: float | None

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """uint8 (height, width, 3) RGB; x, y, width and height in pixels of `level`, inside it."""
        ...

    def close(self) -> None: ...


def open_best(path: Path) -> Reader:
    """Open `path` with the reader that supports it best. Raises InputError where none can, or for damage."""
    modules = [import_module(f"{__name__}.{name}") for name in READERS]
    score, best = max(((module.support(path), module) for module in modules), key=lambda pair: pair[0])
    if score <= 0:
        raise InputError(f"{path}: the content is no picture or slide known here; give one of {FORMATS}")
    return best.open_file(path)
