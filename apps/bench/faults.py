"""Commands killed at random moments: what they leave must be usable, and going on must end in the same bytes.

Each command runs undisturbed twice first, which tells how long it takes and which of its files differ by themselves
(they tell seconds or dates; only their names are compared). Then it is killed (SIGKILL, its workers too) at a moment
drawn from a seed, killed again by half of the chances, and run to its end in the same folder. Between, no file may be
torn: what stands under its own name must be a whole JSON, GeoJSON, PNG or safetensors.

`python -m slidekick.apps.bench.faults [--n 100] [--seed 1] [--only segment] [--data DATA]`; exit 1 where one differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LONGEST_S = 900.0
AGAIN = 0.5  # chance of one more kill before it may end
# What a run keeps while it goes on, which its end leaves behind or removes.
SCRATCH = (".part", ".log", ".tmp", ".lock")


@dataclass(frozen=True)
class Task:
    """command: what is run, given a folder of material and one to write to. prepare: makes the material."""

    command: Callable[[Path, Path], list[str]]
    prepare: Callable[[Path, Path | None], None]


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
    parser.add_argument("--n", type=int, default=100, help="kills, spread over the commands (100)")
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
                found += disturbed(name, TASKS[name], Path(place), share, args.seed, args.data)
            except RuntimeError as error:
                print(f"faults: {name}: {error}", file=sys.stderr)
                return 2
    bad = [one for one in found if one.wrong]
    told = {"kills": sum(len(one.seconds) for one in found), "runs": len(found), "bad": [vars(one) for one in bad]}
    print(json.dumps(told, indent=1) if args.json else as_text(found))
    return 1 if bad else 0


def disturbed(name: str, task: Task, place: Path, runs: int, seed: int, data: Path | None) -> list[Killed]:
    """So many runs of a command, each killed at least once. Raises RuntimeError where it fails undisturbed."""
    material = place / "material"
    material.mkdir()
    task.prepare(material, data)
    whole, spent = [], []
    for number in range(2):
        out, begun = place / f"whole-{number}", time.monotonic()
        if (code := run(task.command(material, out), LONGEST_S)) != 0:
            raise RuntimeError(f"ends with {code} undisturbed")
        spent.append(time.monotonic() - begun)
        whole.append(contents(out))
    varying = {path for path in whole[0] if whole[0][path] != whole[1].get(path)}
    chance, found = random.Random(f"{name} {seed}"), []
    for number in range(runs):
        out, moments = place / f"run-{number}", []
        while not moments or chance.random() < AGAIN:
            moments.append(round(chance.uniform(0, min(spent)), 2))
            run(task.command(material, out), moments[-1])
            if wrong := torn(out):
                break
        else:
            code = run(task.command(material, out), LONGEST_S)
            wrong = [f"ended with {code}"] if code else differing(contents(out), whole[0], varying)
        found.append(Killed(name, number, tuple(moments), tuple(wrong)))
        print("x" if wrong else ".", end="", file=sys.stderr, flush=True)
    return found


def run(command: Sequence[str], seconds: float) -> int | None:
    """The exit code; None where it had not ended after so long and was killed, with all that it started."""
    running = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return running.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def contents(folder: Path) -> dict[str, str]:
    """Path -> digest of every file below a folder that is no scratch."""
    files = [path for path in folder.rglob("*") if path.is_file() and not is_scratch(path.relative_to(folder))]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)
    }


def is_scratch(path: Path) -> bool:
    """Whether a run keeps it for itself: hidden, or by its suffix, or in a folder of checkpoints or tiles."""
    own = [part for part in path.parts if part.startswith(".") or part.endswith(".tiles") or part == "checkpoints"]
    return bool(own) or path.suffix in SCRATCH


def differing(made: dict[str, str], whole: dict[str, str], varying: set[str]) -> list[str]:
    """A line for each file that is missing, too much, or other than in the undisturbed run."""
    lines = [f"{path}: missing" for path in sorted(whole.keys() - made.keys())]
    lines += [f"{path}: too much" for path in sorted(made.keys() - whole.keys())]
    return lines + [
        f"{path}: other bytes" for path in sorted(made.keys() & whole.keys() - varying) if made[path] != whole[path]
    ]


def torn(folder: Path) -> list[str]:
    """A line for each file that stands under its own name and is not whole."""
    checks = {".json": _json, ".geojson": _json, ".png": _picture, ".safetensors": _tensors}
    lines = []
    for path in folder.rglob("*"):
        check = checks.get(path.suffix)
        if check and path.is_file() and not is_scratch(path.relative_to(folder)):
            try:
                check(path)
            except Exception as error:  # whatever a torn file makes of its reader
                lines.append(f"{path.name}: torn ({type(error).__name__})")
    return lines


def _json(path: Path) -> None:
    json.loads(path.read_text(encoding="utf-8"))


def _picture(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()


def _tensors(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            file.get_tensor(name)


# ---- the commands


def _slidekick(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "slidekick.apps.cli", *map(str, words)]


def _slides(material: Path, data: Path | None) -> None:
    from slidekick.apps.bench.slide_files import BLOCK, tissue_plan, write_slide
    from slidekick.apps.bench.smoke import demo_picture

    for name, blocks in (("a", 4), ("b", 2)):
        write_slide(material / f"{name}.svs", 4096, tissue_plan(4096, blocks), demo_picture(BLOCK))


def _segment(material: Path, out: Path) -> list[str]:
    return _slidekick("segment", material / "a.svs", "--concept", "nucleus", "--out", out)


def _batch(material: Path, out: Path) -> list[str]:
    return _slidekick("batch", material, "--ask", "Is there tumour?", "--workers", "1", "--out", out)


def _report(material: Path, out: Path) -> list[str]:
    return _slidekick("report", material / "a.svs", "--region", "1024,1024,512,512", "--out", out)


def _recipe(material: Path, data: Path | None) -> None:
    import yaml

    from slidekick.rl import grpo

    config = yaml.safe_load((Path(grpo.__file__).parent / "configs" / "experts.yaml").read_text(encoding="utf-8"))
    config["sft"] |= {"max_steps": 6, "save_steps": 2, "logging_steps": 1}
    (material / "data").symlink_to(data.resolve())
    (material / "experts.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def _train(material: Path, out: Path) -> list[str]:
    words = ("train", "experts", material / "experts.yaml", "--data", material / "data", "--out", out, "--resume")
    return _slidekick(*words)


TASKS = {
    "segment": Task(_segment, _slides),
    "batch": Task(_batch, _slides),
    "report": Task(_report, _slides),
    "train": Task(_train, _recipe),
}


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
