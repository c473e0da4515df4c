"""How much memory this process may still take, so that work ends with a word before the system kills it.

The least of three is told: what the machine has free, what is left of the container's share (cgroup v1 and v2), and of
the address space (`ulimit -v`). Pages that the system can drop or swap out count as free.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from slidekick.data.errors import ShortError

RESERVE = 200_000_000  # bytes left to the rest of the machine, and to what is taken without asking
EVERY_S = 0.2  # a look takes a third of a millisecond; a process takes some 2 GB a second at most
CGROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# What libraries say where memory is refused; only some of them raise MemoryError.
REFUSED = ("out of memory", "can't allocate memory", "bad_alloc", "bad allocation", "insufficient memory")
# Version -> where its folders lie, the limit, what is taken, and what of that can be dropped (a line of memory.stat).
FILES = {
    2: (CGROUPS, "memory.max", "memory.current", "inactive_file"),
    1: (CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_bytes() -> int:
    """Bytes that this process may still take."""
    import psutil

    machine = psutil.virtual_memory().available + psutil.swap_memory().free
    return max(0, min([machine, *_cgroups(), *_address_space()]) - RESERVE)


def require(needed: int, what: str, mend: str) -> None:
    """Raises ShortError where fewer than `needed` bytes are free. what: the work, with its file; mend: what to do."""
    if (free := free_bytes()) < needed:
        raise ShortError(f"{what}: needs {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free; {mend}")


def fitting(wanted: int, each: int) -> int:
    """How many of `wanted` workers, which take so many bytes each, fit into memory; 1 at least."""
    return max(1, min(wanted, free_bytes() // each))


def is_refused(error: BaseException) -> bool:
    """Whether an error is some library's way to say that memory was refused."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in REFUSED)


class Watch:
    """While it lasts, interrupts the main thread when no memory is left, and makes a ShortError of that.

    Only on Linux, whose kernel kills where others swap, and only where this process and its children hold more than
    `RESERVE`: else its end would not help.
    """

    def __init__(self) -> None:
        self._over, self._held = threading.Event(), 0

    def __enter__(self) -> Watch:
        if sys.platform == "linux":
            threading.Thread(target=self._look, name="memory", daemon=True).start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._over.set()
        if self._held and kind is KeyboardInterrupt:
            raise ShortError(
                f"memory is used up, {self._held / 1e9:.1f} GB of it by this command, which ended before the system "
                "kills it; close other programs, or ask for less at a time"
            ) from None

    def _look(self) -> None:
        while not self._over.wait(EVERY_S):
            if free_bytes() == 0 and (held := _held()) > RESERVE and not self._over.is_set():
                self._held = held
                _thread.interrupt_main()
                return


def _held() -> int:
    """Bytes that this process and its children hold."""
    import psutil

    own, held = psutil.Process(), 0
    for one in [own, *own.children(recursive=True)]:
        try:
            held += one.memory_info().rss
        except psutil.Error:  # it has ended
            continue
    return held


def _cgroups() -> Iterator[int]:
    """Bytes left in the group this process is in and in those above it."""
    try:
        lines = OWN.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, *names = FILES[1 if controllers else 2]
        # A container sees its own group as the root, while its path may be told as seen from outside.
        folder = root / place.lstrip("/")
        for one in [folder, *folder.parents] if folder.is_dir() else [root]:
            if not one.is_relative_to(root):
                break
            if (left := _left(one, *names)) is not None:
                yield left


def _left(folder: Path, limit: str, taken: str, droppable: str) -> int | None:
    try:
        most = int((folder / limit).read_text())  # "max": no limit
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return most - int((folder / taken).read_text()) + int(stat.get(droppable, 0))
    except (OSError, ValueError):
        return None


def _address_space() -> Iterator[int]:
    """Bytes left of a limit on the address space, which counts what is mapped and not yet touched too."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        import psutil

        yield limit - psutil.Process(os.getpid()).memory_info().vms
