"""The command line as users run it: a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def slidekick(tmp_path_factory) -> Callable[..., subprocess.CompletedProcess]:
    """Runs `slidekick` with the arguments given, in an empty folder; text in and out."""
    folder = tmp_path_factory.mktemp("here")

    def run(*arguments: str | Path) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "slidekick.apps.cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ, timeout=120)
        assert not list(folder.iterdir()), "a command wrote where nobody asked it to"
        return done

    return run


@pytest.fixture
def picture(tmp_path) -> Path:
    """A small grey picture."""
    path = tmp_path / "tissue.png"
    Image.fromarray(np.full((64, 96, 3), 180, np.uint8)).save(path)
    return path
