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
from slidekick.data.readers.header import Header

READERS = ("tiff", "openslide", "dicom", "pillow")
# Names to look for in folders, and to offer; the readers decide by content.
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".svs", ".ndpi", ".scn", ".bif", ".svslide", ".qptiff",
    ".mrxs", ".vms", ".vmu", ".dcm",
)  # fmt: skip
OF_SEVERAL_FILES = (".mrxs", ".vms", ".vmu", ".dcm")  # one alone is no slide
FORMATS = "PNG, JPEG, TIFF, SVS, NDPI, MRXS, SCN, DICOM"  # for messages; the readers decide by content


class Reader(Protocol):
    """An open file."""

    header: Header

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """uint8 (height, width, 3) RGB; x, y, width and height in pixels of `level`, inside it."""
        ...

    def close(self) -> None: ...


def open_best(path: Path) -> Reader:
    """Open `path` with the reader that supports it best, or the next where that one refuses it after all.

    Raises InputError where none can, with what the best one said.
    """
    modules = [import_module(f"{__name__}.{name}") for name in READERS]
    scores = sorted(((module.support(path), -number) for number, module in enumerate(modules)), reverse=True)
    first = None
    for score, number in scores:
        if score > 0:
            try:
                return modules[-number].open_file(path)
            except InputError as error:
                first = first or error
    raise first or InputError(f"{path}: the content is no picture or slide known here; give one of {FORMATS}")
