"""A workbench over the scripted copilot of the command's tests, with two pictures in an opened folder."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slidekick.apps.serving.folders import Folders
from slidekick.apps.serving.guard import Keys
from slidekick.apps.serving.server import Server, Settings
from slidekick.apps.workbench.session import Session, Sessions
from slidekick.apps.workbench.store import Store
from slidekick.copilot.copilot import Copilot
from slidekick.grounding.finding import Finding

_spec = importlib.util.spec_from_file_location("talk_fixtures", Path(__file__).parents[1] / "talk" / "conftest.py")
talk = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(talk)


class ClickedSegmentor(talk.DrawnSegmentor):
    """The same; clicks add squares of 9 px where they say "belongs to it", and take away what they touch else."""

    def segment(self, image, concepts, *, mpp=None, points=None):
        return [self._clicked(found, points or ()) for found in super().segment(image, concepts, mpp=mpp)]

    def _clicked(self, found, points):
        if found.instances is None and not points:
            return found
        labels = np.zeros(found.mask.shape, np.int32) if found.instances is None else found.instances.copy()
        for x, y, inside in points:
            if inside:
                labels[max(0, int(y) - 4) : int(y) + 5, max(0, int(x) - 4) : int(x) + 5] = labels.max() + 1
            elif labels[int(y), int(x)]:
                labels[labels == labels[int(y), int(x)]] = 0
        return Finding(found.concept, labels > 0, 0.9, 0.99, labels, known=found.known, prompt=found.prompt)


@pytest.fixture
def copilot() -> Copilot:
    return Copilot(talk.KeywordEngine(), ClickedSegmentor())


@pytest.fixture
def opened(tmp_path) -> Path:
    folder = tmp_path / "case"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, (height, width) in {"a.png": (300, 400), "b <b>.png": (120, 90)}.items():
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / name)
    Image.fromarray(np.full((64, 96, 3), 20, np.uint8)).save(tmp_path / "outside.png")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    return folder


@dataclass
class Bench:
    """A server with sessions, and a way to start it anew over the same disk."""

    copilot: Copilot
    opened: Path
    root: Path

    def __post_init__(self) -> None:
        self.begun: list[Server] = []

    def sessions(self) -> Sessions:
        self.begun.append(Server(self.copilot, Folders([self.opened]), Keys({}), Settings(body=10_000_000)))
        return Sessions(self.begun[-1], Store(self.root))


@pytest.fixture
def bench(copilot, opened, tmp_path):
    made = Bench(copilot, opened, tmp_path / "sessions")
    yield made
    for server in made.begun:
        server.worker.end()


@pytest.fixture
def sessions(bench) -> Sessions:
    return bench.sessions()


@pytest.fixture
def session(sessions) -> Session:
    made = sessions.begin()
    made.open("folder:case/a.png")
    return made
