"""Looking at the tiles of a slide: by one process or by several, each tile once, going on where a run was stopped.

What tiles show is kept in `tile_store.py` at once. Every process reads the slide itself, ahead in a thread, and runs
the network in one thread, so that who looks at a tile makes no difference. Nothing is made of what is seen here.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import multiprocessing
import os
import queue
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from slidekick.data.errors import InputError, OutputError, SlidekickError
from slidekick.data.files import cannot_write, content_key
from slidekick.data.slide import Slide, open_slide
from slidekick.grounding.runtime import CompiledNetwork, TorchNetwork, torch_threads
from slidekick.grounding.segmentor import Segmentor
from slidekick.grounding.tile_store import SlideTiling, TileLog, TileStore
from slidekick.grounding.tiles import OVERLAP, TILE
from slidekick.grounding.vocabulary import Concept

SCHEMA = "slidekick.tiles/1"
AHEAD = 4  # tiles read while one is looked at: 1.2 MB each

Progress = Callable[[str, int, int], None]  # what, done, total
Load = Callable[[], Segmentor]


@dataclass
class Look:
    """All tiles of a slide at one scale that are to be looked at for some concepts. folder, question: of its store."""

    tiling: SlideTiling
    concepts: list[Concept]
    tiles: list[int]
    folder: Path = Path()
    question: dict = field(default_factory=dict)

    def store(self) -> TileStore:
        """What was seen so far."""
        return TileStore(self.folder, self.question, self.tiling, len(self.concepts))


@contextlib.contextmanager
def kept_looks(
    folder: Path, looks: list[Look], slide: Slide, segmentor: Segmentor, tell: Callable[[str], None]
) -> Iterator[list[Look]]:
    """The looks with their stores under `folder`, which goes once the block ends well and stays where it does not.

    tell: told what is found there. Raises OutputError where another run is at work there, or nothing can be written;
    InputError where the slide or the weights cannot be read.
    """
    for look in looks:
        look.question = _question(look, slide, segmentor)
        look.folder = folder / hashlib.sha256(json.dumps(look.question, sort_keys=True).encode()).hexdigest()[:12]
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("ab")
    with lock:
        with _writing(folder):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"{folder}: another run is at work there; wait for it, or choose another --out"
                ) from None
            for look in looks:
                look.folder.mkdir(exist_ok=True)
            others = {path for path in folder.iterdir() if path.is_dir()} - {look.folder for look in looks}
        if others:
            tell(f"{folder} also holds tiles of {len(others)} other question(s), slides or weights; they are not used")
        yield looks
        with _writing(folder):
            for look in looks:
                shutil.rmtree(look.folder)
            if not others:
                shutil.rmtree(folder)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(cannot_write(folder, error)) from error


def _question(look: Look, slide: Slide, segmentor: Segmentor) -> dict:
    """All that decides what a tile shows."""
    try:
        digest = hashlib.sha256(segmentor.weights.read_bytes() if segmentor.weights else b"")
        content = content_key(slide.path)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{error.filename or slide.path}: cannot be read ({reason}); check its rights") from error
    for concept in look.concepts:
        digest.update(segmentor.vocabulary.vectors[concept.name].tobytes())
    return {
        "schema": SCHEMA,
        "slide": [content, slide.colour],
        "tiling": [*asdict(look.tiling).values(), TILE, OVERLAP],
        "concepts": [asdict(concept) for concept in look.concepts],
        "calibration": asdict(segmentor.vocabulary.calibration),
        "weights": [type(segmentor.network).__name__, digest.hexdigest()],
    }


def look_at_all(
    looks: list[Look],
    slide: Slide,
    segmentor: Segmentor,
    workers: int,
    load: Load | None,
    progress: Progress,
    tell: Callable[[str], None],
) -> None:
    """Look at every tile that is not in the stores yet. See `stitch.segment_slide` for the arguments."""
    total, left = sum(len(look.tiles) for look in looks), []
    for look in looks:
        with contextlib.closing(look.store()) as store:
            done = store.done()
            for stranger in store.strangers:
                tell(f"{stranger}: damaged, or of another question; left alone, its tiles are looked at anew")
        left += [(look, tile) for tile in look.tiles if not done[tile]]
    if len(left) < total:
        tell(f"going on where a run was stopped: {total - len(left)} of {total} tiles are there already")
    progress("tiles", total - len(left), total)
    with contextlib.ExitStack() as stack:
        if (workers := min(workers, len(left))) > 1:
            made = _by_workers(left, slide, segmentor, workers, load)
        else:
            made = _look(slide, stack.enter_context(_one_thread(segmentor)), left)
        for number, _ in enumerate(stack.enter_context(contextlib.closing(made)), total - len(left) + 1):
            progress("tiles", number, total)


def _look(slide: Slide, segmentor: Segmentor, left: list[tuple[Look, int]]) -> Iterator[None]:
    """Look at tiles, reading some ahead; yields after each that is kept."""
    logs: dict[Path, TileLog] = {}
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        waiting: deque = deque()
        coming = iter(left)
        try:
            while True:
                for look, tile in itertools.islice(coming, AHEAD - len(waiting)):
                    waiting.append((look, tile, pool.submit(look.tiling.read, slide, tile)))
                if not waiting:
                    return
                look, tile, pixels = waiting.popleft()
                if look.folder not in logs:
                    logs[look.folder] = stack.enter_context(contextlib.closing(TileLog(look.folder, look.question)))
                logs[look.folder].add(tile, segmentor.see(pixels.result(), look.concepts))
                yield
        finally:
            for *_, pixels in waiting:
                pixels.cancel()


def _by_workers(left, slide: Slide, segmentor: Segmentor, workers: int, load: Load | None) -> Iterator[None]:
    """The same by processes; of n each takes every nth tile."""
    context = multiprocessing.get_context("spawn")
    runtime = "torch" if isinstance(segmentor.network, TorchNetwork) else "openvino"
    load = load or partial(_loaded, segmentor.weights.parent, runtime)
    said = context.Queue()
    team = [
        context.Process(
            target=_work,
            args=((slide.path, slide.mpp, slide.colour), load, left[number::workers], os.getpid(), said),
            daemon=True,
        )
        for number in range(workers)
    ]
    try:
        for one in team:
            one.start()
        for _ in left:
            while True:
                try:
                    error = said.get(timeout=1)
                    break
                except queue.Empty:
                    if lost := [one.exitcode for one in team if one.exitcode]:
                        raise SlidekickError(
                            f"{slide.source}: a worker ended with {lost[0]}, for want of memory maybe; run the same "
                            "again with fewer --workers, what was seen is kept"
                        ) from None
            if error is not None:
                raise error
            yield
    finally:
        for one in team:
            one.terminate()
        for one in team:
            one.join()


def _work(opened: tuple, load: Load, left: list[tuple[Look, int]], parent: int, said) -> None:
    """What a worker does: looks, and says after each tile None, or what is wrong. opened: as `open_slide` takes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and ends its workers
    try:
        with open_slide(*opened) as slide, _one_thread(load()) as segmentor:
            for _ in _look(slide, segmentor, left):
                if os.getppid() != parent:
                    return
                said.put(None)
    except SlidekickError as error:
        said.put(error)


def _loaded(folder: Path, runtime: str) -> Segmentor:
    return Segmentor.from_pretrained(folder, runtime)


@contextlib.contextmanager
def _one_thread(segmentor: Segmentor) -> Iterator[Segmentor]:
    """The same with a network that runs in one thread meanwhile, for sums are rounded otherwise in several."""
    network = segmentor.network
    if isinstance(network, CompiledNetwork):
        alone = CompiledNetwork(network.config, segmentor.weights, partial(_again, segmentor.weights), threads=1)
        yield Segmentor(alone, segmentor.vocabulary, segmentor.weights)
    elif isinstance(network, TorchNetwork):
        with torch_threads(1):
            yield segmentor
    else:
        yield segmentor


def _again(weights: Path):
    """The model of graphs that have gone from the cache since they were made."""
    return Segmentor.from_pretrained(weights.parent, "torch").network.model
