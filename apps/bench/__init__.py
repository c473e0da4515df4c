"""`slidekick bench [AREA ...]`: how fast it is, in one table: ours, what one would use instead, the ratio, the goal.

Each area is a module beside this file that measures in processes of its own and prints its rows (`table.py`) with
`--json`; peers are installed in environments of their own on first use. `--record` adds the ratios to a history.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# area -> its module and how long it takes on two cores
AREAS = {
    "smoke": ("smoke", "a minute: ratios that a change must keep"),
    "answers": ("figures", "a minute: answers and masks by the clock, memory"),
    "writing": ("decode", "five minutes: tokens beside llama.cpp and transformers"),
    "slides": ("slides", "a quarter of an hour: tiles, memory, whole slides, beside other readers"),
    "page": ("page", "two minutes, with a browser: paint, stalls, frames"),
    "rollouts": ("rollouts", "five minutes, with --data: samples for reinforcement beside trl"),
}
USUAL = ("smoke", "answers", "writing", "slides", "page")
HISTORY = "## History"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick bench`."""
    told = "; ".join(f"{name}, {what}" for name, (_, what) in AREAS.items())
    parser.add_argument("areas", nargs="*", metavar="AREA", help=f"{told} (default: {', '.join(USUAL)})")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of sets, for rollouts")
    parser.add_argument("--record", type=Path, metavar="FILE.md", help=f"file whose “{HISTORY}” gets a line an area")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 1 where a goal of `smoke` is not met, 2 where an area could not be measured."""
    from slidekick.apps.bench.table import as_text, machine
    from slidekick.data.errors import InputError

    areas = args.areas or list(USUAL)
    if strange := [name for name in areas if name not in AREAS]:
        raise InputError(f"{strange[0]}: no such area; use some of {', '.join(AREAS)}")
    if "rollouts" in areas and args.data is None:
        raise InputError("rollouts: give --data, the folder of sets to ask about")
    if args.record and (not args.record.is_file() or HISTORY not in args.record.read_text(encoding="utf-8")):
        raise InputError(f"{args.record}: no file with a line “{HISTORY}” to write below")
    measured = {name: _measured(name, args.data) for name in areas}
    told = [facts for facts in measured.values() if facts]
    facts = {
        "rows": [row for one in told for row in one["rows"]],
        "missing": [line for one in told for line in one.get("missing", ())]
        + [f"{name}: see above" for name, one in measured.items() if one is None],
        "versions": {name: number for one in told for name, number in one["versions"].items()},
        "machine": machine(),
    }
    print(json.dumps(facts, indent=1) if args.json else as_text(facts))
    if args.record:
        record(args.record, {name: one["rows"] for name, one in measured.items() if one})
    if len(told) < len(measured):
        return 2
    return int(any(row["met"] is False for row in (measured.get("smoke") or {"rows": ()})["rows"]))


def _measured(area: str, data: Path | None) -> dict | None:
    """What the module prints; None where it could not measure, which it has told on stderr."""
    module, lasting = AREAS[area]
    print(f"{area}: {lasting} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", f"slidekick.apps.bench.{module}", "--json"]
    if area == "rollouts":
        command += ["--data", str(data)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1) or not done.stdout.strip():  # Python ends with 1 too where it falls over
        return None
    return json.loads(done.stdout)


def record(path: Path, areas: dict[str, Sequence[dict]]) -> None:
    """A line for each area below the history's heading, newest first: date, version, and each ratio."""
    from importlib.metadata import version

    from slidekick.data.files import write_atomic

    day = time.strftime("%Y-%m-%d")
    lines = [
        f"- {day}, {version('slidekick')}, {area}: "
        + "; ".join(f"{row['what']} / {row['peer']} {row['ratio']:.3g}" for row in rows)
        for area, rows in areas.items()
    ]
    before, heading, after = path.read_text(encoding="utf-8").partition(f"{HISTORY}\n")
    write_atomic(path, f"{before}{heading}\n" + "\n".join([*lines, after.lstrip("\n")]))
