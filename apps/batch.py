"""`slidekick batch SLIDE|FOLDER ... --ask QUESTION --out DIR`: many slides, on several workers or a Ray cluster.

Writes results.parquet (a row for each slide and question) and, where slides failed, failed.csv. A run that was stopped
goes on with what is missing. --ray ADDRESS names a cluster whose machines see the same paths.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from slidekick.apps.loading import add_model, load_copilot, tell
from slidekick.copilot.answer import check_question
from slidekick.data.errors import InputError
from slidekick.data.files import check_writable
from slidekick.data.memory import fitting

WORKER_BYTES = 1_200_000_000  # a copilot that has surveyed a slide
SCHEMA = "slidekick.batch/1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick batch`."""
    parser.add_argument("slides", metavar="SLIDE", nargs="*", type=Path, help="slides, or folders of slides")
    parser.add_argument("--table", type=Path, metavar="CSV", help="columns slide, and case, mpp, question where needed")
    parser.add_argument("--ask", action="append", default=[], metavar="QUESTION", help="asked of each; may be repeated")
    parser.add_argument("--mpp", type=float, metavar="UM", help="µm per pixel of slides whose files do not say")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for results and what is done")
    parser.add_argument("--workers", type=int, metavar="N", help="slides at once (default: one for each core)")
    parser.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster, such as auto or ray://head:10001")
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")


def run(args: argparse.Namespace) -> int:
    """Work through the slides; 1 where some failed, 0 otherwise."""
    if find_spec("ray") is None:
        raise InputError("ray is not installed; pip install 'slidekick[batch]' brings it")
    workers = args.workers if args.workers is not None else fitting(os.cpu_count() or 1, WORKER_BYTES)
    if workers < 1:
        raise InputError(f"--workers {args.workers}: give 1 or more")
    from slidekick.copilot.batch import collect, left_over, run_batch

    tasks = tasks_of(args)
    check_writable(args.out)
    maker = f"{args.model}, segmentor {args.segmentor}, {args.runtime}"
    left = left_over(tasks, args.out, maker)
    if len(left) < len(tasks):
        tell(f"{len(tasks) - len(left)} of {len(tasks)} slides are done already")
    from tqdm import tqdm

    make = partial(load_copilot, args.model, args.segmentor, runtime=args.runtime)
    made = run_batch(left, make, args.out, workers, args.ray, maker)
    for one in tqdm(made, total=len(left), desc="slides", disable=None, file=sys.stderr):
        if one["error"]:
            tqdm.write(f"slidekick: {one['error']}", file=sys.stderr)
    results, failed, lost = collect(tasks, args.out, maker)
    facts = {
        "schema": SCHEMA,
        "slides": len(tasks),
        "done": len(tasks) - lost,
        "results": str(results),
        "failed": str(failed) if failed else None,
    }
    print(json.dumps(facts, indent=2) if args.json else as_text(facts))
    return 1 if failed else 0


def tasks_of(args: argparse.Namespace) -> list:
    """What is to be done, each once. Raises InputError where there is nothing, or no question."""
    from slidekick.copilot.batch import Task, read_table

    questions = tuple(check_question(text) for text in args.ask)
    tasks = read_table(args.table, questions) if args.table else []
    tasks = [replace(task, mpp=task.mpp or args.mpp) for task in tasks]
    files = [file for place in args.slides for file in _files(place)]
    if files and not questions:
        raise InputError("nothing is asked; give --ask QUESTION")
    tasks += [Task(str(file), questions, mpp=args.mpp) for file in files]
    if not tasks:
        raise InputError("no slide is given; name slides or folders of slides, or give --table CSV")
    return list(dict.fromkeys(tasks))


def _files(place: Path) -> list[Path]:
    """The slides below a folder, each once: a DICOM series is its folder, and pictures beside a Hamamatsu slide are
    parts of it."""
    from slidekick.data.readers import SUFFIXES

    if not place.is_dir():
        return [place]
    kinds: dict[Path, dict[str, list[Path]]] = {}
    for file in place.rglob("*"):
        if (suffix := file.suffix.lower()) in SUFFIXES and file.is_file():
            kinds.setdefault(file.parent, {}).setdefault(suffix, []).append(file)
    found: set[Path] = set()
    for folder, files in kinds.items():
        if files.pop(".dcm", None):
            found.add(folder)
        if {".vms", ".vmu"} & files.keys():
            files.pop(".jpg", None)
        found.update(file for some in files.values() for file in some)
    if not found:
        raise InputError(f"{place}: no slide in this folder; give one with {', '.join(SUFFIXES[:4])}, ... files")
    return sorted(found)


def as_text(facts: dict) -> str:
    """The summary for people."""
    lines = [f"{facts['done']} of {facts['slides']} slides done: {facts['results']}"]
    if facts["failed"]:
        lines.append(f"failed: {facts['failed']}")
    return "\n".join([*lines, "Research use only. Not for diagnosis."])
