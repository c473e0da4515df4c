"""How the segmentor's network is run: by torch (the reference; GPU; SAM checkpoints) or by OpenVINO (CPU default).

Both take and give NumPy arrays. OpenVINO runs graphs made once from the weights and kept in the cache: on two cores
it is several times faster than torch, needs a fraction of its memory, and torch need not be imported to use them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from slidekick.data.errors import OutputError, first_line
from slidekick.data.files import cache_dir, cannot_write, check_writable, write_atomic
from slidekick.data.memory import is_refused
from slidekick.grounding.sizes import SegmentorConfig

GRAPHS = 5  # version of the graphs; a change of `_graphs` raises it
DIGEST = hashlib.sha256().digest_size  # bytes before what is kept
# OpenVINO pins threads by default, those of every process to the same cores: two workers then share one.
LATENCY = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}


def cores() -> int:
    """Threads that a graph runs on: what `OMP_NUM_THREADS` says, as for torch, else as many as there are cores."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() and int(told) else os.cpu_count() or 1


class Maps(NamedTuple):
    """Features of one picture as arrays: embedding (1, D, h, w), fine and finest, or None (see `model.Features`)."""

    embedding: np.ndarray
    fine: np.ndarray | None
    finest: np.ndarray | None


class Network(Protocol):
    """The network as the segmentor calls it."""

    config: SegmentorConfig

    def encode(self, window: np.ndarray) -> Maps:
        """uint8 (H, W, 3), sides multiples of 32 -> features."""

    def decode(
        self,
        maps: Maps,
        phrases: np.ndarray,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        former: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `SegmentorModel.decode`: float32 mask logits (P, masks, H/2, W/2) and presence logits (P,)."""


class TorchNetwork:
    """The reference. model: a `SegmentorModel`; it is put into eval mode and run where its weights lie."""

    def __init__(self, model) -> None:
        self.model = model.eval()
        self.config: SegmentorConfig = model.config

    def encode(self, window: np.ndarray) -> Maps:
        import torch

        from slidekick.grounding.model import pixel_tensor

        device = next(self.model.parameters()).device
        with torch.inference_mode():
            pixels = pixel_tensor(window[None], self.config.encoder).to(device)
            features = self.model.encode(pixels.contiguous(memory_format=torch.channels_last))
        return Maps(*(None if level is None else level.cpu().numpy() for level in features))

    def decode(self, maps, phrases, points=None, labels=None, former=None):
        import torch

        from slidekick.grounding.model import Features

        device = next(self.model.parameters()).device

        def tensor(array):
            return None if array is None else torch.from_numpy(np.ascontiguousarray(array)).to(device)

        with torch.inference_mode():
            features = Features(*(tensor(level) for level in maps))
            masks, present = self.model.decode(
                features, tensor(phrases), tensor(points), tensor(labels), tensor(former)
            )
        return masks.cpu().numpy(), present.cpu().numpy()


@contextlib.contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """So many threads for torch meanwhile; 0 leaves them as they are."""
    import torch

    before = torch.get_num_threads()
    if number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class CompiledNetwork:
    """Graphs run by OpenVINO on the CPU, in bfloat16 where the processor has it.

    weights: the safetensors file that the graphs belong to. build: gives the `SegmentorModel`, called only where the
    graphs are not in the cache yet. threads: `cores` where None.
    """

    def __init__(
        self, config: SegmentorConfig, weights: Path, build: Callable[[], object], threads: int | None = None
    ) -> None:
        openvino = openvino_package()
        self.config = config
        folder = cache_dir() / "graphs" / f"{_fingerprint(config, weights)}-{openvino.__version__.split('-')[0]}"
        names = ("encode", "words", "clicks", "correct")
        if not all((folder / f"{name}.xml").is_file() for name in names):
            _make(folder, build())
        self._folder, self._settings = folder, {"INFERENCE_NUM_THREADS": threads or cores()}
        self._ready: dict[str, object] = {}
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Begin to load, in the background, what nearly every question needs."""
        threading.Thread(target=lambda: [self._graph(name) for name in ("encode", "words")]).start()

    def encode(self, window: np.ndarray) -> Maps:
        return Maps(*self._run("encode", window[None]))

    def decode(self, maps, phrases, points=None, labels=None, former=None):
        if former is not None:
            return self._run("correct", *maps, phrases, points, labels, former)
        if points is not None:
            return self._run("clicks", *maps, phrases, points, labels)
        return self._run("words", *maps, phrases)

    def _run(self, name: str, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        results = self._graph(name)([np.ascontiguousarray(array) for array in inputs], share_inputs=True)
        return tuple(results[index] for index in range(len(results)))

    def _graph(self, name: str):
        with self._lock:
            if name not in self._ready:  # when first needed: most questions are words alone
                self._ready[name] = compiled(self._folder / f"{name}.xml", self._settings)
            return self._ready[name]


def compiled(graph: Path, settings: Mapping[str, object]):
    """A graph ready to run on this CPU, for small answers soon. What OpenVINO made of it is kept beside the graph, by
    processor and settings, and loads in a quarter of the time; what cannot be loaded is made anew.

    graph: the .xml. settings: of OpenVINO, beside `LATENCY`.
    """
    openvino = openvino_package()
    core, settings = openvino.Core(), {**LATENCY, **settings}
    machine = [core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    made_for = hashlib.sha256(f"{openvino.__version__} {machine} {sorted(settings.items())}".encode()).hexdigest()
    kept = graph.with_name(f"{graph.stem}-{made_for[:12]}.blob")
    if made := _whole(kept):
        with contextlib.suppress(RuntimeError):  # of another build
            return core.import_model(made, "CPU", settings)
    ready = core.compile_model(graph, "CPU", settings)
    made = ready.export_model().getvalue()
    with contextlib.suppress(OutputError):  # a cache that only others may write to
        write_atomic(kept, hashlib.sha256(made).digest() + made)
    return ready


def _whole(kept: Path) -> bytes:
    """What stands behind its digest in a file; empty where there is none, or it is not what was written: OpenVINO is
    not made for bytes that are not its own."""
    try:
        held = kept.read_bytes()
    except OSError:
        return b""
    return held[DIGEST:] if hashlib.sha256(held[DIGEST:]).digest() == held[:DIGEST] else b""


def openvino_package():
    """OpenVINO, kept from reporting its use over the network, which it would do on import unless told otherwise."""
    sys.modules.setdefault("openvino_telemetry", None)  # an import error there makes it take its own silent stub
    import openvino

    return openvino


def _fingerprint(config: SegmentorConfig, weights: Path) -> str:
    digest = hashlib.sha256(f"{GRAPHS} {config.to_dict()}".encode())
    digest.update(weights.read_bytes())
    return digest.hexdigest()[:16]


def _make(folder: Path, model) -> None:
    """Write the graphs of `model`."""
    print(f"Preparing the segmentor for this machine (once; kept in {cache_dir()}) ...", file=sys.stderr, flush=True)
    check_writable(folder)
    for name, (module, example, shapes) in _graphs(model).items():
        write_graph(module, example, shapes, folder / f"{name}.xml")


def write_graph(module, example: tuple, shapes: list, path: Path) -> None:
    """Write one graph in float16, atomically: first under another name, the .xml (which is looked for) last.

    module: a torch module. example: its inputs. shapes: of the inputs, −1 where they vary.
    Raises OutputError where they cannot be written.
    """
    openvino = openvino_package()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer notes each Python number in SAM's code; shapes are tested
        graph = openvino.convert_model(module, example_input=example, input=shapes)
    part = path.with_name(f"{path.stem}-{os.getpid()}.xml")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        openvino.save_model(graph, part, compress_to_fp16=True)
        for suffix in (".bin", ".xml"):
            os.replace(part.with_suffix(suffix), path.with_suffix(suffix))
    except OSError as error:
        raise OutputError(cannot_write(path, error)) from error
    except RuntimeError as error:  # OpenVINO's way to say that a disk is full
        if is_refused(error):
            raise
        raise OutputError(cannot_write(path, OSError(errno.EIO, first_line(error)))) from error
    finally:
        for suffix in (".bin", ".xml"):
            part.with_suffix(suffix).unlink(missing_ok=True)


def _graphs(model) -> dict[str, tuple]:
    """What is turned into graphs: module, example inputs, shapes with −1 where they vary."""
    import torch
    from torch import nn

    from slidekick.grounding.model import Features, pixel_tensor
    from slidekick.grounding.text import PHRASE_WIDTH

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

    class Encode(Graph):
        def forward(self, window):
            return tuple(self.model.encode(pixel_tensor(window, model.config.encoder)))

    class Decode(Graph):
        def forward(self, embedding, fine, finest, phrases, points=None, labels=None, former=None):
            return self.model.decode(Features(embedding, fine, finest), phrases, points, labels, former)

    model.eval()
    window = torch.zeros(1, 256, 256, 3, dtype=torch.uint8)
    with torch.no_grad():
        maps = Encode()(window)
    words = (*maps, torch.ones(2, PHRASE_WIDTH))
    clicks = (*words, torch.ones(2, 3, 2), torch.ones(2, 3, dtype=torch.int64))
    correct = (*clicks, torch.zeros(2, 128, 128))
    levels = [[1, level.shape[1], -1, -1] for level in maps]
    shapes = [*levels, [-1, PHRASE_WIDTH], [-1, -1, 2], [-1, -1], [-1, -1, -1]]
    return {
        "encode": (Encode(), (window,), [[1, -1, -1, 3]]),
        "words": (Decode(), words, shapes[:4]),
        "clicks": (Decode(), clicks, shapes[:6]),
        "correct": (Decode(), correct, shapes),
    }
