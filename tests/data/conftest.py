"""Slides as fixtures: a pyramid, and others as a test wants them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from slide_files import tissue_like, write_pyramid


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
