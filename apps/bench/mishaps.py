"""Mishaps beside kills: a full disk, rights and slides that vanish, workers that die, a clock set back, no memory left.

Each befalls each command at a moment drawn from a seed. The command must then end by itself: well, or with code 2 and
one line; nothing may be torn; and once the mishap is mended, the same command must end in the same bytes as ever.

`python -m slidekick.apps.bench.mishaps [--seed 1] [--only disk-full] [--task segment] [--data DATA]`; exit 1 where one
does not. What needs a file system of its own is left out, aloud, where mounting is not allowed (`unshare -rm` allows
it).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slidekick.apps.bench.disturbing import TASKS, Ended, Whole, prepared, run, torn, undisturbed

ENDS_S = 120.0  # after a mishap, on a busy machine
# Root may write everywhere, but without these capabilities (setpriv is util-linux's).
AS_OTHERS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
AHEAD_BYTES = 300_000_000  # of address space that a command still gets where memory runs out
# Put before all modules of a process: after so many seconds its clock is a day behind.
CLOCK = """
import os, time
real, begun, after = time.time, time.monotonic(), float(os.environ["SLIDEKICK_CLOCK"])
def shifted():
    return real() - 86400 * (time.monotonic() - begun > after)
shifted.__module__, shifted.__qualname__ = "time", "time"  # whoever pickles it sends its name
time.time = shifted
"""


class LeftOutError(Exception):
    """A mishap cannot be made here."""


@dataclass
class Site:
    """Where one mishap happens. material: what the command reads. own: a folder for the mishap. out: where the command
    writes. moment: seconds."""

    material: Path
    own: Path
    out: Path
    whole: Whole
    moment: float
    chance: random.Random
    environment: dict[str, str] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)  # words of the command
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)  # closed when all is over


@dataclass(frozen=True)
class Met:
    """One mishap of one command. code: what it ended with. said: its last line. wrong: what should not be so."""

    mishap: str
    task: str
    seconds: float
    code: int | None
    said: str
    wrong: tuple[str, ...]


# ---- the mishaps: each prepares a site, gives what happens at its moment (None: nothing more), and mends it at last

Happens = Callable[[subprocess.Popen], None] | None


@contextlib.contextmanager
def disk_full(site: Site) -> Iterator[Happens]:
    """A file system that holds a part of what is written."""
    size = sum(path.stat().st_size for path in site.whole.folder.rglob("*") if path.is_file())
    _mounted(site, f"size={int(size * site.chance.uniform(0.05, 0.9)) // 4096 * 4096 + 4096}")
    yield None
    _mount("-o", "remount,size=4G", site.out.parent)


@contextlib.contextmanager
def read_only(site: Site) -> Iterator[Happens]:
    """A file system that can only be read."""
    _mounted(site, "ro,size=4G")
    yield None
    _mount("-o", "remount,rw", site.out.parent)


@contextlib.contextmanager
def no_rights(site: Site) -> Iterator[Happens]:
    """The folder that is written to may no longer be entered."""
    if os.geteuid() == 0:
        if shutil.which(AS_OTHERS[0]) is None:
            raise LeftOutError(f"root may enter everywhere, and there is no {AS_OTHERS[0]}")
        site.before = AS_OTHERS
    site.out.mkdir()
    yield lambda running: site.out.chmod(0)
    site.out.chmod(0o755)


@contextlib.contextmanager
def slide_gone(site: Site) -> Iterator[Happens]:
    """The slides are taken away."""
    away = site.own / "away"

    def happens(running: subprocess.Popen) -> None:
        away.mkdir()
        for one in _slides(site):
            one.rename(away / one.name)

    yield happens
    for one in away.glob("*"):
        one.rename(site.material / one.name)


@contextlib.contextmanager
def slide_cut(site: Site) -> Iterator[Happens]:
    """The slides lose their second half, as where a copy is made anew."""
    kept = site.own / "kept"
    shutil.copytree(site.material, kept)

    def happens(running: subprocess.Popen) -> None:
        for one in _slides(site):
            os.truncate(one, one.stat().st_size // 2)

    yield happens
    for one in _slides(site):
        shutil.copy2(kept / one.name, one)


@contextlib.contextmanager
def worker_killed(site: Site) -> Iterator[Happens]:
    """One of the processes that the command started is killed."""

    def happens(running: subprocess.Popen) -> None:
        import psutil

        with contextlib.suppress(psutil.Error):
            children = [one for one in psutil.Process(running.pid).children(recursive=True) if _works(one)]
            if children:
                site.chance.choice(children).kill()

    yield happens


@contextlib.contextmanager
def clock_back(site: Site) -> Iterator[Happens]:
    """The clock is set back by a day."""
    folder = site.own / "clock"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CLOCK)
    site.environment |= {"PYTHONPATH": str(folder), "SLIDEKICK_CLOCK": str(site.moment)}
    yield None


@contextlib.contextmanager
def no_memory(site: Site) -> Iterator[Happens]:
    """The command may take no more memory."""

    def happens(running: subprocess.Popen) -> None:
        import psutil

        with contextlib.suppress(psutil.Error):
            one = psutil.Process(running.pid)
            limit = one.memory_info().vms + AHEAD_BYTES
            one.rlimit(psutil.RLIMIT_AS, (limit, limit))

    yield happens


MISHAPS = {
    "disk-full": disk_full,
    "read-only": read_only,
    "no-rights": no_rights,
    "slide-gone": slide_gone,
    "slide-cut": slide_cut,
    "worker-killed": worker_killed,
    "clock-back": clock_back,
    "no-memory": no_memory,
}


def _slides(site: Site) -> list[Path]:
    return [path for path in site.material.iterdir() if path.suffix == ".svs"]


def _works(process) -> bool:
    """Whether it is one of ours and no helper of Ray's or of multiprocessing's."""
    line = " ".join(process.cmdline())
    return any(words in line for words in ("spawn_main", "ray::MapWorker", "slidekick.apps.cli"))


def _mounted(site: Site, options: str) -> None:
    """Let the site's `out` lie in a file system in memory."""
    place = site.own / "disk"
    place.mkdir()
    _mount("-t", "tmpfs", "-o", options, "tmpfs", place)
    site.stack.callback(subprocess.run, ["umount", "-l", str(place)], check=False)
    site.out = place / "out"


def _mount(*words: str | Path) -> None:
    try:
        done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)
    except OSError as error:
        raise LeftOutError(f"no mount here ({error.strerror})") from error
    if done.returncode:
        raise LeftOutError(done.stderr.strip())


# ---- what is made of them


def main(arguments: Sequence[str] | None = None) -> int:
    """Let all happen; 0 where all ended as they should, 1 where one did not, 2 where one fails undisturbed."""
    parser = argparse.ArgumentParser(prog="slidekick.apps.bench.mishaps", description="Let mishaps befall commands.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=MISHAPS, action="append", help="these mishaps alone")
    parser.add_argument("--task", choices=TASKS, action="append", help="these commands alone")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of sets, without which nothing is trained")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")
    args = parser.parse_args(arguments)
    met: list[Met] = []
    for name in args.task or [name for name in TASKS if args.data or name != "train"]:
        with tempfile.TemporaryDirectory(prefix="slidekick-") as place:
            try:
                met += befallen(name, Path(place), args.only or MISHAPS, args.seed, args.data)
            except RuntimeError as error:
                print(f"mishaps: {name}: {error}", file=sys.stderr)
                return 2
    print(file=sys.stderr)
    print(json.dumps([vars(one) for one in met], indent=1) if args.json else "\n".join(map(_line, met)))
    return int(any(one.wrong for one in met))


def befallen(name: str, place: Path, mishaps: Mapping | Sequence, seed: int, data: Path | None) -> list[Met]:
    """Let mishaps befall a command. Raises RuntimeError where it fails undisturbed."""
    material = prepared(name, place, data)
    whole = undisturbed(TASKS[name], material, place)
    met = []
    for mishap in mishaps:
        chance = random.Random(f"{name} {mishap} {seed}")
        own = place / mishap
        own.mkdir()
        moment = round(chance.uniform(0.1, 0.9) * whole.seconds, 2)
        try:
            met.append(_befallen(name, mishap, Site(material, own, own / "out", whole, moment, chance)))
        except LeftOutError as error:
            print(f"mishaps: {mishap} is left out: {error}", file=sys.stderr)
        shutil.rmtree(own, ignore_errors=True)
    return met


def _befallen(name: str, mishap: str, site: Site) -> Met:
    command, longest = TASKS[name].command, ENDS_S + site.whole.seconds
    with site.stack:
        with MISHAPS[mishap](site) as happens:
            words = [*site.before, *command(site.material, site.out)]
            ended = run(words, longest, site.moment, happens, site.environment)
            wrong = _odd(ended) + torn(site.out)
        again = run(command(site.material, site.out), longest)
        wrong += site.whole.wrong(site.out, again.code)
    last = _last(ended)
    print("x" if wrong else ".", end="", file=sys.stderr, flush=True)
    return Met(mishap, name, site.moment, ended.code, last, tuple(wrong))


def _odd(ended: Ended) -> list[str]:
    """What a command may not do, whatever befalls it."""
    lines = []
    if ended.code is None:
        lines.append(f"did not end within {ENDS_S:.0f} s")
    elif ended.code not in (0, 1, 2):
        lines.append(f"ended with {ended.code}")
    if "Traceback (most recent call last)" in ended.said:
        lines.append(f"a traceback: {_last(ended)[:200]}")
    if ended.code == 2 and not _last(ended).startswith("slidekick: "):
        lines.append("no word of why")
    return lines


def _last(ended: Ended) -> str:
    """The last line that a command said, its word of why before bars that are drawn once more as it ends."""
    lines = ended.said.strip().splitlines() or [""]
    return next((line for line in reversed(lines) if line.startswith("slidekick: ")), lines[-1])


def _line(met: Met) -> str:
    told = "; ".join(met.wrong) if met.wrong else "as it should"
    return f"{met.task}, {met.mishap} at {met.seconds} s: ended with {met.code} ({met.said[:160]}): {told}"


if __name__ == "__main__":
    sys.exit(main())
