"""Damaged files by the thousand: each must be read or be refused in one line, within seconds, without a crash.

Slides of a folder, and sound files of every other kind (`fuzz_kinds.py`), are damaged from a seed (bytes flipped,
blocks overwritten, ends cut off, values of a JSON put in others' places) and read in a process of its own: of a slide
a thumbnail and a region, of h5 files features. A process that dies or hangs is named with the number of its input, and
`--only NUMBER --keep DIR` makes that input again.
`python -m slidekick.apps.bench.fuzz --n 10000 --seed 1 [DIR]` takes some minutes; exit 1 where something fell over.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from slidekick.apps.bench.fuzz_kinds import TEXTS, folder_of, mutated, read, write_sound

PATIENCE_S = 5.0  # of computing for one input, however busy the machine is; undamaged ones take a tenth of a second
WAIT_S = 120.0  # on the clock, for one that does not compute either
STARTING_S = 60.0  # for the process to import what it needs
MOST_MEMORY = 6 * 2**30  # bytes of addresses for the process: a header must not make it take what the machine has
HEAD = 4096  # bytes at either end, where formats keep their tables: half of the damage falls there
SIDE_PX, REGION_PX = 256, 200
CHILD = "from slidekick.apps.bench import fuzz; fuzz.serve()"
H5 = (".h5", ".hdf5")


@dataclass(frozen=True)
class Case:
    """One damaged input. number: with the seed it says all of how it was made. outcome: "read", "refused", or what
    went wrong: "raised", "crashed", "hung". said: the message, or the error. seconds: that it took."""

    number: int
    file: str
    damage: str
    outcome: str
    said: str
    seconds: float

    @property
    def held(self) -> bool:
        """Whether it ended as it must."""
        return self.outcome in ("read", "refused")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; 0 where all held, 1 where one did not, 2 where there is nothing to damage."""
    parser = argparse.ArgumentParser(prog="slidekick.apps.bench.fuzz", description="Read damaged files.")
    parser.add_argument(
        "folder", metavar="DIR", type=Path, nargs="?", help="folder of slides, pictures and h5 files (default: none)"
    )
    parser.add_argument("--n", type=int, default=2000, help="inputs (default: 2000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this one input alone")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder for the inputs that fell over")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")
    args = parser.parse_args(arguments)
    slides = files_of(args.folder) if args.folder else []
    if args.folder and not slides:
        print(f"fuzz: {args.folder}: no files to damage; give a folder of slides", file=sys.stderr)
        return 2
    numbers = range(args.n) if args.only is None else [args.only]
    with tempfile.TemporaryDirectory(prefix="slidekick-") as place:
        files = [*slides, *files_of(write_sound(Path(place)))]
        cases = list(run_cases(files, numbers, args.seed, args.keep))
    bad = [case for case in cases if not case.held]
    if args.json:
        print(json.dumps({"counts": Counter(case.outcome for case in cases), "bad": [asdict(case) for case in bad]}))
    else:
        print(as_text(cases))
    return 1 if bad else 0


def files_of(folder: Path) -> list[Path]:
    """The files of a folder and of those in it, in order of their names; empty ones hold nothing to damage."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def damaged(content: bytes, seed: int, number: int, text: bool = False) -> tuple[bytes, str]:
    """`content` damaged as (seed, number) says, and how in a few words. text: whether it is JSON, whose values are put
    in each other's place three times in four."""
    import numpy as np

    rng = np.random.default_rng([seed, number])
    if text and rng.integers(4):
        return mutated(content, rng)
    size = len(content)

    def place() -> int:
        end = int(rng.integers(3))  # the head, the tail, or anywhere
        span = min(size, HEAD) if end < 2 else size
        return int(rng.integers(span)) + (size - span if end == 1 else 0)

    kind = ("flip", "flip", "overwrite", "cut", "drop")[rng.integers(5)]
    data = bytearray(content)
    if kind == "flip":
        number_of = int(2 ** rng.uniform(0, 7))
        for _ in range(number_of):
            data[place()] ^= int(rng.integers(1, 256))
        return bytes(data), f"{number_of} bytes flipped"
    at, length = place(), int(2 ** rng.uniform(0, 12))
    if kind == "overwrite":
        value = (0, 255, int(rng.integers(256)))[rng.integers(3)]
        length = len(data[at : at + length])
        data[at : at + length] = bytes([value]) * length
        return bytes(data), f"{length} bytes of {value} at {at}"
    if kind == "cut":
        return bytes(data[: max(1, at)]), f"cut off at {at}"
    return bytes(data[:at] + data[at + length :]) or b"\0", f"{length} bytes left out at {at}"


def run_cases(files: Sequence[Path], numbers: Sequence[int], seed: int, keep: Path | None = None) -> Iterator[Case]:
    """One case for each number, in order; inputs that fell over are kept in `keep`.

    Input `number` is file `number % len(files)`, so that every format gets its share.
    """
    with tempfile.TemporaryDirectory() as folder, _Process() as process:
        for number in numbers:
            source = files[number % len(files)]
            sound = source.read_bytes()
            content, damage = damaged(sound, seed, number, source.suffix in TEXTS)
            path = laid_out(source, Path(folder))
            path.write_bytes(content)
            began = time.monotonic()
            outcome, said = process.tried(path)
            case = Case(number, source.name, damage, outcome, said, round(time.monotonic() - began, 2))
            if keep and not case.held:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"seed{seed}-{number}-{source.name}").write_bytes(content)
            path.write_bytes(sound)  # for the next one of its kind
            yield case


def laid_out(source: Path, scratch: Path) -> Path:
    """Where the damaged file goes: beside the others of its kind, which are copied once, or by itself."""
    folder = folder_of(source)
    if folder is None:
        return scratch / f"case{source.suffix}"
    place = scratch / folder.name
    if not place.is_dir():
        shutil.copytree(folder, place)
    return place / source.relative_to(folder)


def attempt(path: Path) -> tuple[str, str]:
    """Read a file as a user would; ("read" | "refused" | "raised", what was said)."""
    from slidekick.data.errors import SlidekickError

    try:
        folder = folder_of(path)
        _read(path) if folder is None else read(path, folder)
        return "read", ""
    except SlidekickError as error:
        said = str(error)
        return ("raised", f"more than one line: {said!r}") if "\n" in said else ("refused", said)
    except BaseException as error:  # whatever else comes out is what is looked for
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        return "raised", f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"


def as_text(cases: Sequence[Case]) -> str:
    """How many ended how, the slowest, and each that fell over."""
    counts = Counter(case.outcome for case in cases)
    slowest = max(cases, key=lambda case: case.seconds)
    lines = [f"{len(cases)} inputs: " + ", ".join(f"{number} {outcome}" for outcome, number in counts.most_common())]
    lines.append(f"slowest: {slowest.seconds:.2f} s, input {slowest.number} ({slowest.file}, {slowest.damage})")
    bad = [case for case in cases if not case.held]
    return "\n".join(lines + [f"{c.outcome}: input {c.number} ({c.file}, {c.damage}): {c.said}" for c in bad])


def _read(path: Path) -> None:
    if path.suffix in H5:
        from slidekick.data.features import read_features

        read_features(path)
        return
    from slidekick.data.slide import Region, open_slide

    with open_slide(path) as slide:
        width, height = slide.dimensions
        pixels = slide.thumbnail(SIDE_PX)
        x, y = width // 3, height // 3
        part = slide.roi(Region(x, y, min(REGION_PX, width - x), min(REGION_PX, height - y))).pixels
    for array in (pixels, part):
        if array.dtype != "uint8" or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            raise TypeError(f"pixels of {array.dtype} {array.shape}")


class _Process:
    """The process that reads, started again when it dies."""

    def __init__(self) -> None:
        self._running: subprocess.Popen | None = None

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    def tried(self, path: Path) -> tuple[str, str]:
        """What came of reading `path`: see `Case`."""
        if self._running is None:
            self._running = subprocess.Popen(
                [sys.executable, "-c", CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                bufsize=1,
            )
            if self._line(STARTING_S) is None:
                self._stop()
                return "crashed", "the reading process did not start"
        try:
            self._running.stdin.write(f"{path}\n")
            line = self._line(WAIT_S)
        except BrokenPipeError:
            line = ""
        if line:
            outcome, said = json.loads(line)
            return outcome, said
        waiting = line is None
        code = self._stop()
        if waiting or code == -signal.SIGPROF:
            return "hung", f"longer than {WAIT_S if waiting else PATIENCE_S:g} s"
        return "crashed", f"exit code {code}"

    def _line(self, patience_s: float) -> str | None:
        """The next line; "" where the process is gone; None where none comes in time."""
        ready, _, _ = select.select([self._running.stdout], [], [], patience_s)
        return self._running.stdout.readline() if ready else None

    def _stop(self) -> int | None:
        if self._running is None:
            return None
        running, self._running = self._running, None
        try:
            code = running.wait(0.5 if running.poll() is None else 0)
        except subprocess.TimeoutExpired:
            running.kill()
            code = running.wait()
        for stream in (running.stdin, running.stdout):
            with contextlib.suppress(BrokenPipeError):  # what was not read before it died
                stream.close()
        return code


def serve() -> None:
    """What the process does: read the files named on stdin, one a line, and say of each what came of it."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import slidekick.data.features
    import slidekick.data.readers.dicom
    import slidekick.data.readers.openslide
    import slidekick.data.readers.tiff
    import slidekick.grounding.model  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, PATIENCE_S)  # ends the process, whatever library it is in
        said = attempt(Path(line.rstrip("\n")))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    sys.exit(main())
