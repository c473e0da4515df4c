"""Slides and pictures made on the spot, so that no test needs a file of ours."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image


def tissue_like(width: int, height: int, seed: int = 0) -> np.ndarray:
    """uint8 (height, width, 3): smooth colour blobs, so that resampling can be compared."""
    coarse = np.random.default_rng(seed).integers(30, 226, (height // 40 + 2, width // 40 + 2, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def write_pyramid(path: Path, pixels: np.ndarray, levels: int, mpp: float | None, text: str = "") -> Path:
    """A tiled TIFF with `levels` halvings, as scanners and converters write it."""
    scale = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            size = (pixels.shape[1] >> level, pixels.shape[0] >> level)
            part = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
            kind = {"subfiletype": 1} if level else {"description": text, **scale}
            writer.write(part, tile=(64, 64), photometric="rgb", compression="zlib", metadata=None, **kind)
    return path


@pytest.fixture(scope="session")
def level0() -> np.ndarray:
    return tissue_like(720, 500)


@pytest.fixture(scope="session")
def pyramid(tmp_path_factory, level0) -> Path:
    """720 x 500 pixels at 0.5 µm, three levels."""
    return write_pyramid(tmp_path_factory.mktemp("slides") / "pyramid.tif", level0, 3, 0.5)


@pytest.fixture
def make_pyramid(tmp_path) -> Callable[..., Path]:
    def make(name: str, levels: int = 1, mpp: float | None = None, text: str = "") -> Path:
        return write_pyramid(tmp_path / name, tissue_like(200, 160), levels, mpp, text)

    return make
