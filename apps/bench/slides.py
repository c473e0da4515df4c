"""Whole slides measured beside what one would use instead: tiles a second, memory, cost of tissue, workers, a question.

Slides are painted here (`slide_files.py`), every measurement is a process of its own, ours and peers in turns on the
same slide and the same tiles. They are figures to report, not limits to hold; each row tells its goal and whether it is
met. `python -m slidekick.apps.bench.slides [--json] [--only NAME] [--out DIR]` takes about ten minutes on an idle
machine, and the first time as many more to install the peers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from slidekick.apps.bench.table import Row, as_text, machine, versions

PACKAGES = ("slidekick", "numpy", "tifffile", "imagecodecs", "openvino", "torch")
SIDE, BLOCKS = 20_000, 100  # px of the usual slide; blocks of tissue on it, a quarter
SIDES, FIXED_BLOCKS = (10_000, 30_000, 100_000), 36  # px for memory, and the same tissue on each
SEGMENTED_BLOCKS, LOOKED_BLOCKS = 2, 12  # for memory and for workers
AREAS = (5, 10, 20, 40, 80)  # blocks: 100 to 1 700 tiles of 112 µm
TILE_PX, WORKERS, ROUNDS = 256, 2, 3
MOST_TILES = 800  # of a peer that reads 100 a second
ALIKE = 3.0  # grey values between the means of what two readers show: filters differ, another place is far off
QUESTIONS = ("How much of the tissue is tumour?", "Is there tumour?")
COLD = ("base", "packages")  # what of the cache a first question may find: the weights


@dataclass
class Bench:
    """Where slides are painted, what was found, and what could not be measured, a line each."""

    folder: Path
    rows: list[Row]
    facts: dict
    missing: list[str]

    def slide(self, side: int, blocks: int) -> Path:
        """A slide of `side` px with `blocks` blocks of tissue, painted on first use."""
        from slidekick.apps.bench.slide_files import BLOCK, tissue_plan, write_slide
        from slidekick.apps.bench.smoke import demo_picture

        path = self.folder / f"{side}-{blocks}.svs"
        if not path.is_file():
            write_slide(path, side, tissue_plan(side, blocks), demo_picture(BLOCK))
        return path

    def job(self, **facts) -> Path:
        """The JSON file of a measurement, which starts now."""
        path = self.folder / "job.json"
        path.write_text(json.dumps(facts | {"began": time.time()}))
        return path

    def ours(self, task: str, environment: dict | None = None, **facts) -> dict:
        """Run a task of slide_work.py in a process of its own. Raises SourceError where it could not be measured."""
        from slidekick.data.errors import SourceError

        command = [sys.executable, "-m", "slidekick.apps.bench.slide_work", task, str(self.job(**facts))]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | (environment or {}))
        if done.returncode:
            raise SourceError(f"{task}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
        return json.loads(done.stdout)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 where something of ours could not be measured. A peer that is missing is told in a line."""
    from slidekick.data.errors import SlidekickError

    parser = argparse.ArgumentParser(prog="slidekick.apps.bench.slides", description="Measure whole-slide work.")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")
    parser.add_argument("--only", choices=TASKS, help="this measurement alone")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to keep slides and plot in")
    args = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = args.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slidekick-")))
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder, [], {}, [])
        try:
            for name in [args.only] if args.only else TASKS:
                TASKS[name](bench)
        except SlidekickError as error:
            print(f"slidekick: {error}", file=sys.stderr)
            return 2
    facts = {
        "rows": [row.to_dict() for row in bench.rows],
        "facts": bench.facts,
        "missing": bench.missing,
        "versions": versions(PACKAGES),
        "machine": machine(),
    }
    print(json.dumps(facts, indent=2) if args.json else as_text(facts))
    return 0


def tiles(bench: Bench) -> None:
    """Tiles over the tissue at the slide's own scale and at half of it, against decoding alone and against peers."""
    from slidekick.apps.bench.slide_peers import FASTSLIDE, PEERS, peer_tiles
    from slidekick.data.errors import SourceError

    path = bench.slide(SIDE, BLOCKS)
    for scale in (1, 2):
        job = tile_job(path, scale)
        runs: dict[str, list[dict]] = {}
        peers = {peer.told: peer for peer in (FASTSLIDE, *PEERS)}
        for _ in range(ROUNDS):
            runs.setdefault("ours", []).append(bench.ours("tiles", **job))
            for name, peer in list(peers.items()):
                try:
                    runs.setdefault(name, []).append(peer_tiles(peer, bench.job(**job)))
                except SourceError as error:
                    bench.missing.append(f"tiles at {job['mpp']:g} µm: {error}")
                    del peers[name], runs[name]  # not in half of the rounds
        bench.rows += tile_rows(runs, f"tiles at {job['mpp']:g} µm", FASTSLIDE.told, bench.missing)
        bench.facts[f"tiles at {job['mpp']:g} µm"] = runs


def tile_job(path: Path, scale: int) -> dict:
    """What ours and peers read: the first `MOST_TILES` tiles wholly on tissue, in the grid's order."""
    from slidekick.data.slide import open_slide
    from slidekick.data.tiles import tile_grid
    from slidekick.data.tissue import tissue_mask

    with open_slide(path) as slide:
        mpp = slide.mpp[0] * scale
        grid = tile_grid(slide, TILE_PX, mpp, tissue=tissue_mask(slide), least_tissue=0.99)
    places = grid.coords[:MOST_TILES].tolist()
    return {
        "slide": str(path),
        "places": places,
        "size": TILE_PX,
        "scale": scale,
        "mpp": mpp,
        "workers": WORKERS,
        "compared": 50,
    }


def tile_rows(runs: dict[str, list[dict]], what: str, raw: str, missing: list[str]) -> list[Row]:
    """One row for each that read; of every one its best way in its best round counts.

    raw: the peer that is a bare reader. What another shows must be alike, else it is a line in `missing`.
    """
    ours = best_pace(runs["ours"], "tiles_s")
    raw_s = best_pace(runs["ours"], "raw_s")
    rows = [Row("tiles", what, "/s", ours, "decoding alone", raw_s, least=0.8, best=raw_s)]
    others = {}
    for name, measured in runs.items():
        if name == "ours":
            continue
        first, own = measured[0], runs["ours"][0]
        if first["number"] != own["number"] or abs(first["mean"] - own["mean"]) > ALIKE:
            missing.append(f"{what}: {name} shows something else (mean {first['mean']:.1f}, ours {own['mean']:.1f})")
            continue
        others[name] = best_pace(measured, "tiles_s")
    quickest = max((pace for name, pace in others.items() if name != raw), default=None)
    for name, pace in others.items():
        goal = 0.8 if name == raw else 3.0 if pace == quickest else None
        rows.append(Row("tiles", what, "/s", ours, name, pace, least=goal))
    return rows


def best_pace(measured: Sequence[dict], key: str) -> float:
    """The highest pace of any way in any round: what is slower was other work's doing."""
    return max(pace for run in measured for pace in run[key].values())


def memory(bench: Bench) -> None:
    """Peak memory by the slide's size, the tissue being the same: reading all tiles, and segmenting."""
    for task, blocks in (("read-memory", FIXED_BLOCKS), ("segment", SEGMENTED_BLOCKS)):
        facts = {"size": TILE_PX, "mpp": 0.5, "workers": 1 if task == "segment" else WORKERS}
        found = {side: bench.ours(task, slide=str(bench.slide(side, blocks)), **facts) for side in SIDES}
        first, *others = SIDES
        what = "segment" if task == "segment" else "tissue mask and tiles"
        for side in others:
            told = f"{what}, {side:,} px"
            peer = f"at {first:,} px"
            bench.rows.append(
                Row("memory", told, "MB", found[side]["peak_mb"], peer, found[first]["peak_mb"], most=1.1)
            )
        bench.facts[f"memory of {what}"] = found


def tissue(bench: Bench) -> None:
    """Seconds of reading and encoding tiles by their number, with a straight line through them."""
    slides = [str(bench.slide(SIDE, blocks)) for blocks in AREAS]
    found = bench.ours("tissue", slides=slides, rounds=2, workers=WORKERS)
    per_tile, start, straight = line(found["tiles"], found["seconds"])
    bench.facts["tissue"] = found | {"per_tile_s": per_tile, "start_s": start, "r2": straight}
    told = f"survey, {1e3 * per_tile:.1f} ms a tile + {start:.2f} s"
    bench.rows.append(Row("tissue", told, "R²", straight, "a straight line", 1.0, least=0.99))
    plot(bench.folder / "tissue.png", found["tiles"], found["seconds"])


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """(slope, intercept, R²) of the least-squares line."""
    import numpy as np

    x, y = np.asarray(x, float), np.asarray(y, float)
    slope, intercept = np.polyfit(x, y, 1)
    left = ((y - slope * x - intercept) ** 2).sum()
    return float(slope), float(intercept), float(1 - left / ((y - y.mean()) ** 2).sum())


def plot(path: Path, numbers: Sequence[int], spent: Sequence[float]) -> None:
    """Draw the measured times and the line, written atomically. Raises OutputError."""
    import io

    from matplotlib.figure import Figure

    from slidekick.data.files import write_atomic

    slope, intercept, straight = line(numbers, spent)
    figure = Figure(figsize=(5, 3.2), dpi=140, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, max(numbers)], [intercept, intercept + slope * max(numbers)], color="0.6", linewidth=1)
    axes.plot(numbers, spent, "o", color="#7b3294")
    axes.set(xlabel="tiles of tissue (112 µm a side)", ylabel="seconds to read and encode", xlim=0, ylim=0)
    axes.set_title(f"{1e3 * slope:.1f} ms a tile, R² {straight:.4f}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    write_atomic(path, stream.getvalue())


def workers(bench: Bench) -> None:
    """`segment` of a slide by one worker and by two, a core each, in turns; start-up is told apart."""
    slide = str(bench.slide(SIDE, LOOKED_BLOCKS))
    runs: dict[int, list[dict]] = {1: [], WORKERS: []}
    for _ in range(2):
        for number, measured in runs.items():
            measured.append(bench.ours("segment", slide=slide, workers=number, cores=number))
    best = {number: {key: min(run[key] for run in ran) for key in ran[0]} for number, ran in runs.items()}
    peer = f"{WORKERS} workers, a core each"
    tiles_s, total_s = ((best[1][key], best[WORKERS][key]) for key in ("tiles_s", "total_s"))
    told = f"segment, looking at {best[1]['tiles']} tiles, 1 worker on a core"
    bench.rows.append(Row("workers", told, "s", tiles_s[0], peer, tiles_s[1], least=1.8))
    bench.rows.append(
        Row("workers", "segment, start and drawing included, 1 worker on a core", "s", total_s[0], peer, total_s[1])
    )
    bench.facts["workers"] = best


def question(bench: Bench) -> None:
    """A first question about a slide: new process, no features and no graphs in the cache; then a second one."""
    from slidekick.data.files import cache_dir

    with tempfile.TemporaryDirectory(prefix="slidekick-") as cold:
        for name in COLD:
            if (cache_dir() / name).is_dir():
                (Path(cold) / name).symlink_to(cache_dir() / name)
        slide = str(bench.slide(SIDE, BLOCKS))
        found = bench.ours("question", {"SLIDEKICK_CACHE": cold}, slide=slide, questions=QUESTIONS)
    told = f"first question, {found['tiles']:,} tiles"
    bench.rows.append(Row("question", told, "s", found["cold_s"], "goal", 60.0, most=1.0))
    bench.rows.append(Row("question", told, "MB", found["peak_mb"], "goal", 2000.0, most=1.0))
    bench.rows.append(Row("question", "second question", "s", found["warm_s"], "goal", 5.0, most=1.0))
    bench.facts["question"] = found


TASKS: dict[str, Callable[[Bench], None]] = {
    "tiles": tiles,
    "memory": memory,
    "tissue": tissue,
    "workers": workers,
    "question": question,
}


if __name__ == "__main__":
    sys.exit(main())
