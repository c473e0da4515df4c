"""A workbench over a scripted copilot, with two pictures in an opened folder; its page in a real browser."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from browsing import loaded
from PIL import Image
from talking import DrawnSegmentor, KeywordEngine

from slidekick.apps.bench.page import BROWSERS
from slidekick.apps.serving.folders import Folders
from slidekick.apps.serving.guard import Keys
from slidekick.apps.serving.running import serving
from slidekick.apps.serving.server import Server, Settings
from slidekick.apps.workbench.session import Session, Sessions
from slidekick.apps.workbench.store import Store
from slidekick.copilot.copilot import Copilot
from slidekick.grounding.finding import Finding

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


class ClickedSegmentor(DrawnSegmentor):
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
    return Copilot(KeywordEngine(), ClickedSegmentor())


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

    @contextmanager
    def served(self):
        """A workbench started anew, at the address given."""
        pytest.importorskip("gradio")
        from slidekick.apps.workbench.app import build_workbench

        sessions = self.sessions()
        with serving(build_workbench(sessions.server, sessions.store)) as address:
            yield address


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


@pytest.fixture(scope="module")
def browser():
    """A browser of this machine. Where there is none, what needs one is skipped loudly."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("NO BROWSER: the workbench was not tested; install chromium")
    with playwright.sync_playwright() as tool:
        opened = tool.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def address(bench):
    """Where the workbench answers."""
    with bench.served() as place:
        yield place


@pytest.fixture
def page(browser, address):
    """The page, opened; `page.requests` holds what it fetched, `page.wrong` what its scripts complain of."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.requests, page.wrong = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.goto(address)
    loaded(page)
    yield page
    assert page.wrong == []
    page.close()
