"""How cost grows with pixels, concepts, objects, questions, experts and clients; sizes are doubled or quadrupled.

What is told is the exponent of the last step, log(cost ratio) / log(size ratio): 1 is in proportion, more is faster
than that; what a process pays once makes it smaller. Tiles of a slide are `slides.py`'s. Sizes take turns, and the
quickest of the rounds counts.

`python -m slidekick.apps.bench.growth [--only pixels] [--rounds 3] [--plot FILE.png] [--json]`
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from slidekick.apps.bench.smoke import demo_picture, seconds
from slidekick.apps.bench.table import Row, as_text, machine, versions

MPP = (0.25, 0.25)
SIDE = 1024  # px, where pixels are not what grows
MOST = 1.15  # of an exponent: a tenth more each time that the size is doubled is within what is measured
PACKAGES = ("slidekick", "onnxruntime", "openvino", "numpy")
QUESTIONS = (
    "How many nuclei are there?", "Is there a gland?", "What does this picture show?", "How much of it is stroma?",
    "Where is the tumour?", "Are there blood vessels?", "Which organ is this?", "Is there necrosis?",
)  # fmt: skip
EACH = 2  # questions of a client


@dataclass(frozen=True)
class Axis:
    """sizes: of `unit`. what: what is timed. make: gives the work at a size; what it opens goes onto the stack."""

    sizes: tuple[int, ...]
    unit: str
    what: str
    make: Callable[[int, ExitStack], Callable[[], object]]


def pixels(side: int, stack: ExitStack) -> Callable[[], object]:
    """Segment one concept on a square."""
    segmentor, image = _segmentor(), demo_picture(side)
    return partial(_looked, segmentor, image, ["nucleus"])


def concepts(number: int, stack: ExitStack) -> Callable[[], object]:
    """Segment so many concepts."""
    segmentor = _segmentor()
    return partial(_looked, segmentor, demo_picture(SIDE), list(segmentor.vocabulary.concepts)[:number])


def objects(number: int, stack: ExitStack) -> Callable[[], object]:
    """Measure and outline so many objects of 6 x 6 px, each with its surroundings of 12 x 12."""
    import numpy as np

    from slidekick.data.slide import Region, Roi
    from slidekick.grounding.export import to_geojson
    from slidekick.grounding.finding import Finding
    from slidekick.grounding.measure import measure

    across = math.isqrt(number)
    cells = np.pad(np.arange(1, across * across + 1, dtype=np.int32).reshape(across, across, 1, 1), [(0, 0)] * 4)
    tile = np.zeros((12, 12), np.int32)
    tile[3:9, 3:9] = 1
    instances = (cells * tile).transpose(0, 2, 1, 3).reshape(12 * across, 12 * across)
    finding = Finding("nucleus", instances > 0, 0.9, 1.0, instances)
    picture = Roi(np.zeros((*instances.shape, 3), np.uint8), MPP, Region(0, 0, *instances.shape[::-1]), "grid")
    return lambda: (measure(finding, MPP), to_geojson([finding], picture))


def questions(number: int, stack: ExitStack) -> Callable[[], object]:
    """Ask so many questions about a picture."""
    from slidekick.copilot import Copilot

    return partial(_asked, _once("copilot", Copilot.from_pretrained), QUESTIONS[:number])


def experts(number: int, stack: ExitStack) -> Callable[[], object]:
    """Ask a question of a mixture of so many experts, which are the shipped ones over and over."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    from slidekick.copilot import Copilot
    from slidekick.copilot.mini import ABOUT, EXPERTS, ROUTER, WEIGHTS

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "mini"
    shutil.copytree(WEIGHTS, folder)
    card = json.loads((folder / EXPERTS / ABOUT).read_text(encoding="utf-8"))
    own, names = card["names"], [f"expert-{index}" for index in range(number)]
    for index, name in enumerate(names):
        shutil.copytree(WEIGHTS / EXPERTS / own[index % len(own)], folder / EXPERTS / name)
    (folder / EXPERTS / ABOUT).write_text(json.dumps(card | {"names": names}), encoding="utf-8")
    router = load_file(folder / EXPERTS / ROUTER)
    for name, values in router.items():
        if values.shape[0] == len(own):  # of the last layer
            router[name] = np.ascontiguousarray(values[np.arange(number) % len(own)])
    save_file(router, folder / EXPERTS / ROUTER)
    return partial(_asked, Copilot.from_pretrained(str(folder)), QUESTIONS[:1])


def clients(number: int, stack: ExitStack) -> Callable[[], object]:
    """Let so many clients ask a server `EACH` questions each, at a time."""
    from PIL import Image

    from slidekick.apps.bench.servers import running

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "fields"
    folder.mkdir()
    Image.fromarray(demo_picture(256)).save(folder / "field.png")
    address, _ = stack.enter_context(running("serve", "--folder", folder, "--waiting", str(2 * number)))

    def work() -> None:
        with ThreadPoolExecutor(number) as pool:
            for asked in [pool.submit(_client, address, folder.name) for _ in range(number)]:
                asked.result()  # or what went wrong with it

    return work


AXES = {
    "pixels": Axis((512, 1024, 2048, 4096), "px a side", "segment one concept", pixels),
    "concepts": Axis((1, 2, 4, 8, 16), "concepts", f"segment, {SIDE} px", concepts),
    "objects": Axis((256, 1_024, 4_096, 16_384), "objects", "measure and outline", objects),
    "questions": Axis((1, 2, 4, 8), "questions", "ask about a picture", questions),
    "experts": Axis((2, 4, 8, 16), "experts", "ask a question", experts),
    "clients": Axis((1, 4, 16, 64), "clients", f"{EACH} answers each", clients),
}
_kept: dict[str, object] = {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where something grows faster than its size."""
    parser = argparse.ArgumentParser(prog="slidekick.apps.bench.growth", description="Measure how cost grows.")
    parser.add_argument("--only", choices=AXES, action="append", help="these alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", metavar="FILE.png", type=Path)
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")
    args = parser.parse_args(arguments)
    spent = {name: measured(AXES[name], args.rounds) for name in args.only or AXES}
    rows = [row(name, AXES[name], costs) for name, costs in spent.items()]
    facts = {"rows": [one.to_dict() for one in rows], "seconds": spent}
    facts |= {"versions": versions(PACKAGES), "machine": machine()}
    print(json.dumps(facts, indent=1) if args.json else as_text(facts))
    if args.plot:
        plot(args.plot, spent)
    return int(any(not one.met for one in rows))


def measured(axis: Axis, rounds: int) -> dict[int, float]:
    """Size -> the fewest seconds of the rounds, in which the sizes take turns."""
    with ExitStack() as stack:
        works = {size: axis.make(size, stack) for size in axis.sizes}
        for work in works.values():
            work()  # plans memory and kernels
        runs = [{size: seconds(work) for size, work in works.items()} for _ in range(rounds)]
    return {size: min(run[size] for run in runs) for size in axis.sizes}


def row(name: str, axis: Axis, costs: dict[int, float]) -> Row:
    """The exponent of the last step."""
    (before, cheaper), (size, dearer) = list(costs.items())[-2:]
    exponent = math.log(dearer / cheaper) / math.log(load(name, size) / load(name, before))
    told = f"{axis.what}: {before:,} → {size:,} {axis.unit}, {cheaper:.2f} → {dearer:.2f} s"
    return Row("growth", told, "exponent", exponent, "in proportion", 1.0, most=MOST)


def load(name: str, size: int) -> float:
    """What cost is held against: a picture's pixels grow with the square of its side."""
    return float(size**2 if name == "pixels" else size)


def plot(path: Path, spent: dict[str, dict[int, float]]) -> None:
    """Draw all axes side by side, with lines in proportion. Raises OutputError."""
    import io

    from matplotlib.figure import Figure

    from slidekick.data.files import write_atomic

    figure = Figure(figsize=(9, 5.2), dpi=130, layout="constrained")
    panels = figure.subplots(2, 3).flat
    for axes, (name, costs) in zip(panels, spent.items(), strict=False):
        sizes, times = [load(name, size) for size in costs], list(costs.values())
        axes.loglog(sizes, [times[-1] * size / sizes[-1] for size in sizes], color="0.75", linewidth=1)
        axes.loglog(sizes, times, "o-", color="#7b3294", markersize=4)
        axes.set_title(f"{AXES[name].what}: {row(name, AXES[name], costs).ours:.2f}", fontsize=9)
        axes.set_xlabel("pixels" if name == "pixels" else AXES[name].unit, fontsize=8)
        axes.set_ylabel("seconds", fontsize=8)
        axes.set_xticks(sizes, [f"{size / 1e6:.2g} M" if size > 1e5 else f"{size:,.0f}" for size in sizes])
        axes.minorticks_off()
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(panels)[len(spent) :]:
        axes.set_axis_off()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    write_atomic(path, stream.getvalue())


def _once(name: str, make: Callable[[], object]):
    if name not in _kept:
        _kept[name] = make()
    return _kept[name]


def _segmentor():
    from slidekick.grounding import Segmentor

    return _once("segmentor", Segmentor.from_pretrained)


def _looked(segmentor, image, names: Sequence[str]) -> None:
    segmentor.forget()
    segmentor.segment(image, names, mpp=MPP)


def _asked(copilot, asked: Sequence[str]) -> None:
    from slidekick.data.slide import Region, Roi

    image = _once("picture", lambda: demo_picture(512))
    for question in asked:
        copilot.ask(Roi(image, MPP, Region(0, 0, 512, 512), "sample"), question)


def _client(address: str, folder: str) -> None:
    import httpx

    from slidekick.apps.bench.servers import message

    with httpx.Client(base_url=address, timeout=600) as client:
        for question in QUESTIONS[:EACH]:
            while (reply := client.post("/v1/chat/completions", json=message(folder, "field.png", question))).is_error:
                if reply.status_code != 429:
                    reply.raise_for_status()
                time.sleep(float(reply.headers["Retry-After"]))


if __name__ == "__main__":
    sys.exit(main())
