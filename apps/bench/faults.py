"""Commands killed at random moments: what they leave must be usable, and going on must end in the same bytes.

Each is killed (SIGKILL, its workers too) at a moment drawn from a seed, killed again by half of the chances, and run to
its end in the same folder. How that end is judged: `disturbing.py`; other mishaps: `mishaps.py`.

`python -m slidekick.apps.bench.faults [--n 55] [--seed 1] [--only segment] [--data DATA]`; exit 1 where one differs.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slidekick.apps.bench.disturbing import TASKS, prepared, run, torn, undisturbed

AGAIN = 0.5  # chance of one more kill before it may end


@dataclass(frozen=True)
class Killed:
    """One run: at which seconds it was killed, and what was wrong with it at last."""

    task: str
    number: int
    seconds: tuple[float, ...]
    wrong: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill and compare; 0 where all ended in the same bytes, 1 where one did not, 2 where one fails undisturbed."""
    parser = argparse.ArgumentParser(prog="slidekick.apps.bench.faults", description="Kill commands and go on.")
    parser.add_argument("--n", type=int, default=55, help="runs, each killed at least once (55, some 100 kills)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=TASKS, action="append", help="these commands alone")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of sets, without which nothing is trained")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")
    args = parser.parse_args(arguments)
    names = args.only or [name for name in TASKS if args.data or name != "train"]
    found: list[Killed] = []
    for index, name in enumerate(names):
        share = args.n // len(names) + (index < args.n % len(names))
        with tempfile.TemporaryDirectory(prefix="slidekick-") as place:
            try:
                found += disturbed(name, Path(place), share, args.seed, args.data)
            except RuntimeError as error:
                print(f"faults: {name}: {error}", file=sys.stderr)
                return 2
    bad = [one for one in found if one.wrong]
    told = {"kills": sum(len(one.seconds) for one in found), "runs": len(found), "bad": [vars(one) for one in bad]}
    print(json.dumps(told, indent=1) if args.json else as_text(found))
    return 1 if bad else 0


def disturbed(name: str, place: Path, runs: int, seed: int, data: Path | None) -> list[Killed]:
    """So many runs of a command, each killed at least once. Raises RuntimeError where it fails undisturbed."""
    material, task = prepared(name, place, data), TASKS[name]
    whole = undisturbed(task, material, place)
    chance, found = random.Random(f"{name} {seed}"), []
    for number in range(runs):
        out, moments = place / f"run-{number}", []
        while not moments or chance.random() < AGAIN:
            moments.append(round(chance.uniform(0, whole.seconds), 2))
            run(task.command(material, out), moments[-1])
            if wrong := torn(out):
                break
        else:
            wrong = whole.wrong(out, run(task.command(material, out)).code)
        found.append(Killed(name, number, tuple(moments), tuple(wrong)))
        print("x" if wrong else ".", end="", file=sys.stderr, flush=True)
    return found


def as_text(found: Sequence[Killed]) -> str:
    """A line a command, and one for each run that went wrong."""
    lines = []
    for name in dict.fromkeys(one.task for one in found):
        runs = [one for one in found if one.task == name]
        kills, bad = sum(len(one.seconds) for one in runs), [one for one in runs if one.wrong]
        lines.append(f"{name}: {kills} kills in {len(runs)} runs, {len(bad)} ended otherwise")
        lines += [f"  run {one.number}, killed after {one.seconds} s: {'; '.join(one.wrong)}" for one in bad]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
