"""Figures of this machine: warm seconds and peak memory of `ask` and `segment`, and the size of the installation.

Each is measured in a process of its own, so that one's memory is not the other's. They are figures to report, not
limits to hold; those are in smoke.py. `python -m slidekick.apps.bench.figures [--json]`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from slidekick.apps.bench.smoke import FIVE, MPP, demo_picture, seconds
from slidekick.apps.bench.table import Row, as_text, machine, versions

REPEATS = 5  # warm runs; their median is told
QUESTION = "How many nuclei are there?"
ASK_SIDE, SEGMENT_SIDE = 512, 1024  # px
PACKAGES = ("slidekick", "onnxruntime", "openvino", "numpy")
# what is told, its name, unit and goal
GOALS = (
    ("from cold", "cold_s", "s", 3.0),
    (f"warm, median of {REPEATS}", "warm_s", "s", 1.0),
    ("peak memory", "peak_mb", "MB", 1000.0),
)
INSTALLED_MB = 7500.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 where something could not be measured."""
    parser = argparse.ArgumentParser(prog="slidekick.apps.bench.figures", description="Measure time, memory and size.")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")
    parser.add_argument("--only", choices=TASKS, help=argparse.SUPPRESS)  # how the child processes are called
    args = parser.parse_args(arguments)
    if args.only:
        return measure_here(args.only)
    results = {}
    for task in TASKS:
        done = subprocess.run([sys.executable, "-m", __spec__.name, "--only", task], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            return 2  # the child has told why on stderr
        results[task] = json.loads(done.stdout)
    rows = [row.to_dict() for row in rows_of(results, installation_mb())]
    facts = {"rows": rows, "figures": results, "versions": versions(PACKAGES), "machine": machine()}
    print(json.dumps(facts, indent=2) if args.json else as_text(facts))
    return 0


def rows_of(results: dict[str, dict], installed_mb: float) -> list[Row]:
    """Each figure beside what it should keep to, goals that were set for two cores of a server."""
    sides = {"ask": f"ask, {ASK_SIDE} px", "segment": f"segment {len(FIVE)} concepts, {SEGMENT_SIDE} px"}
    rows = []
    for task, found in results.items():
        found = found | {"cold_s": found["load_s"] + found["first_s"]}
        for what, name, unit, goal in GOALS:
            rows.append(Row("answers", f"{sides[task]}, {what}", unit, found[name], "goal", goal, most=1.0))
    return [*rows, Row("answers", "packages", "MB", installed_mb, "goal", INSTALLED_MB, most=1.0)]


def measure_here(task: str) -> int:
    """Measure one task in this process and print it as JSON."""
    from slidekick.data.errors import SlidekickError

    try:
        made: list[Callable[[], object]] = []
        load_s = seconds(lambda: made.append(TASKS[task]()))
        first_s = seconds(made[0])
        warm = [seconds(made[0]) for _ in range(REPEATS)]
    except SlidekickError as error:
        print(f"slidekick: {error}", file=sys.stderr)
        return 2
    facts = {"load_s": load_s, "first_s": first_s, "warm_s": statistics.median(warm), "peak_mb": peak_mb()}
    print(json.dumps({name: round(value, 3) for name, value in facts.items()}))
    return 0


def asking() -> Callable[[], object]:
    """One question that needs a tool, about a picture of 512 x 512 px: another one each time, so that nothing is known
    of it."""
    import numpy as np

    from slidekick.copilot import Copilot
    from slidekick.data import Region, Roi

    copilot, picture, moved = Copilot.from_pretrained(), demo_picture(ASK_SIDE), count()

    def work() -> object:
        pixels = np.roll(picture, next(moved), axis=1)
        return copilot.ask(Roi(pixels, None, Region(0, 0, ASK_SIDE, ASK_SIDE), "sample"), QUESTION)

    return work


def segmenting() -> Callable[[], object]:
    """Five concepts in a new picture of 1024 x 1024 px."""
    from slidekick.grounding import Segmentor

    segmentor, image = Segmentor.from_pretrained(), demo_picture(SEGMENT_SIDE)

    def work() -> object:
        segmentor.forget()
        return segmentor.segment(image, list(FIVE), mpp=(MPP, MPP))

    return work


TASKS = {"ask": asking, "segment": segmenting}


def peak_mb() -> float:
    """The most memory that this process has held, in MB of 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; getrusage there may tell the parent's peak, which exec hands down
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes


def installation_mb() -> float:
    """Size of all installed packages in MB of 10^6 bytes; files linked twice count once."""
    sizes = {}
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for root, _, files in os.walk(folder):
            for name in files:
                stat = (Path(root) / name).lstat()
                sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return round(sum(sizes.values()) / 1e6, 1)


if __name__ == "__main__":
    sys.exit(main())
