"""Commands that are disturbed while they run, and how their end is judged.

A command runs undisturbed twice first, which tells how long it takes and which of its files differ by themselves (they
tell seconds or dates; only their names are compared). What stands under its own name must be whole at any time, and
after a disturbance the same command, run again, must end in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LONGEST_S = 900.0
SETS = ("glas", "kather2016_sample")  # small ones, to train on
# What a run keeps while it goes on, which its end leaves behind or removes.
SCRATCH = (".part", ".log", ".tmp", ".lock", ".begun")


@dataclass(frozen=True)
class Task:
    """command: what is run, given a folder of material and one to write to. prepare: makes the material."""

    command: Callable[[Path, Path], list[str]]
    prepare: Callable[[Path, Path | None], None]


@dataclass(frozen=True)
class Whole:
    """What undisturbed runs end in. folder: of the first. files: path -> digest. varying: files that differ by
    themselves. seconds: what the quicker took."""

    folder: Path
    files: dict[str, str]
    varying: set[str]
    seconds: float

    def wrong(self, out: Path, code: int | None) -> list[str]:
        """A line for each way in which a run's end is another. code: its exit code, None where it was killed."""
        return [f"ended with {code}"] if code != 0 else differing(contents(out), self.files, self.varying)


def undisturbed(task: Task, material: Path, place: Path) -> Whole:
    """Run a command twice, into folders of `place`. Raises RuntimeError where it fails."""
    seconds, files = [], []
    for number in range(2):
        out, begun = place / f"whole-{number}", time.monotonic()
        ended = run(task.command(material, out))
        if ended.code != 0:
            raise RuntimeError(f"ends with {ended.code} undisturbed: {ended.said[-300:]}")
        seconds.append(time.monotonic() - begun)
        files.append(contents(out))
    return Whole(
        place / "whole-0", files[0], {path for path in files[0] if files[0][path] != files[1].get(path)}, min(seconds)
    )


@dataclass(frozen=True)
class Ended:
    """code: the exit code, None where it was killed. said: what it wrote to stderr."""

    code: int | None
    said: str


def run(
    command: Sequence[str],
    longest: float = LONGEST_S,
    after: float | None = None,
    disturb: Callable[[subprocess.Popen], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a command, and kill it with all that it started where it takes longer than `longest` seconds.

    disturb: called once it has run for `after` seconds, where it still does.
    """
    with tempfile.TemporaryFile() as said:
        nowhere = {"stdout": subprocess.DEVNULL, "stdin": subprocess.DEVNULL, "stderr": said}
        variables = os.environ | dict(environment or {})
        running = subprocess.Popen(command, **nowhere, env=variables, start_new_session=True)
        try:
            try:
                code = running.wait(longest if disturb is None else after)
            except subprocess.TimeoutExpired:
                code = None
                if disturb is not None:
                    disturb(running)
                    code = running.wait(longest)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()
        said.seek(0)
        return Ended(code, said.read().decode(errors="replace"))


def contents(folder: Path) -> dict[str, str]:
    """Path -> digest of every file below a folder that is no scratch."""
    files = [path for path in folder.rglob("*") if path.is_file() and not is_scratch(path.relative_to(folder))]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)
    }


def is_scratch(path: Path) -> bool:
    """Whether a run keeps it for itself: hidden, or by its suffix, or in a folder of checkpoints, tiles or parts."""
    own = [
        part
        for part in path.parts
        if part.startswith(".") or part.endswith(".tiles") or part in ("checkpoints", "parts")
    ]
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


def prepared(name: str, place: Path, data: Path | None) -> Path:
    """The material of a task, made within `place`."""
    material = place / "material"
    material.mkdir()
    TASKS[name].prepare(material, data)
    return material


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

    from slidekick.copilot.mini import WEIGHTS
    from slidekick.data.configuration import read_yaml
    from slidekick.rl.launch import CONFIGS

    config = read_yaml(CONFIGS / "experts.yaml")
    config |= {"start": str(WEIGHTS), "views": 1}
    config["instructions"] |= {"count": 60}
    config["sft"] |= {"max_steps": 6, "save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4}
    (material / "data").mkdir()
    for name in SETS:
        (material / "data" / name).symlink_to((data / name).resolve())
    (material / "experts.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def _train(material: Path, out: Path) -> list[str]:
    words = ("train", "experts", material / "experts.yaml", "--data", material / "data", "--out", out, "--resume")
    return _slidekick(*words)


def _fields(material: Path, data: Path | None) -> None:
    from PIL import Image

    from slidekick.apps.bench.smoke import demo_picture

    (material / "fields").mkdir()
    for number in range(3):
        Image.fromarray(np.roll(demo_picture(256), 50 * number, axis=1)).save(material / "fields" / f"{number}.png")


def _serve(material: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "slidekick.apps.bench.servers", str(material / "fields"), str(out)]


TASKS = {
    "segment": Task(_segment, _slides),
    "batch": Task(_batch, _slides),
    "report": Task(_report, _slides),
    "serve": Task(_serve, _fields),
    "train": Task(_train, _recipe),
}
