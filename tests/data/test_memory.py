"""How much memory is free, and work that ends with a word where none is left."""

import subprocess
import sys

import pytest

from slidekick.data import memory
from slidekick.data.errors import ShortError

GB = 1_000_000_000


@pytest.fixture
def container(tmp_path, monkeypatch):
    """A container's files of version 1 or 2: limit, taken, droppable."""

    def make(version: int, limit: object, taken: int, droppable: int = 0, place: str = "/job") -> None:
        _, *names = memory.FILES[version]
        folder = tmp_path / place.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{taken}\n")
        (folder / "memory.stat").write_text(f"{names[2]} {droppable}\n")
        own = tmp_path / "own"
        own.write_text(
            "4:cpu,cpuacct:/job\n" + (f"3:memory:{place}/deeper\n" if version == 1 else f"0::{place}/deeper\n")
        )
        monkeypatch.setattr(memory, "OWN", own)
        monkeypatch.setitem(memory.FILES, version, (tmp_path, *names))

    return make


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_share_counts_with_what_it_can_drop(container, version):
    container(version, 2 * GB, GB + GB // 2, GB // 4, "/")
    assert list(memory._cgroups()) == [GB // 2 + GB // 4]
    assert memory.free_bytes() == GB // 2 + GB // 4 - memory.RESERVE


def test_a_group_above_limits_too(container, tmp_path):
    container(2, 3 * GB, GB, place="/")
    container(2, 5 * GB, GB, place="/job")
    (tmp_path / "job" / "deeper").mkdir()
    assert sorted(memory._cgroups()) == [2 * GB, 4 * GB]


def test_no_limit_is_none(container):
    container(2, "max", GB, place="/")
    assert list(memory._cgroups()) == []
    assert memory.free_bytes() > 0


def test_what_does_not_fit_is_told_before(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: GB)
    memory.require(GB, "slide.svs", "take less")
    with pytest.raises(ShortError, match=r"slide.svs: needs 2.5 GB of memory, and 1.0 GB are free; take less"):
        memory.require(5 * GB // 2, "slide.svs", "take less")
    assert [memory.fitting(wanted, GB // 3) for wanted in (1, 3, 8)] == [1, 3, 3]
    assert memory.fitting(4, 2 * GB) == 1


def test_every_librarys_way_to_refuse_memory_is_known():
    import numpy as np
    import torch

    refused = []
    for grow in (lambda: np.zeros(1 << 60, np.uint8), lambda: torch.zeros(1 << 50), lambda: bytearray(1 << 60)):
        try:
            grow()
        except Exception as error:
            refused.append(memory.is_refused(error))
    assert refused == [True, True, True]
    assert not memory.is_refused(ValueError("no such slide"))


GROWING = """
import resource, sys, time
import psutil
from slidekick.data.errors import ShortError
from slidekick.data.memory import Watch
limit = psutil.Process().memory_info().vms + 900_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
held = []
try:
    with Watch():
        for _ in range(300):  # so slowly that a busy machine looks in time
            held.append(bytearray(b"x" * 4_000_000))
            time.sleep(0.03)
except ShortError as error:
    print(len(held), error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system swaps")
def test_what_takes_all_memory_ends_with_a_word_and_not_by_the_system():
    ran = subprocess.run([sys.executable, "-c", GROWING], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    number, told = ran.stdout.split(" ", 1)
    assert 75 < int(number) < 225  # stopped with the reserve left, not at the last allocation
    assert told.startswith("memory is used up, 0.")
    assert told.rstrip().endswith("or ask for less at a time")


def test_a_watch_lets_other_work_and_interrupts_be():
    with memory.Watch():
        pass
    with pytest.raises(KeyboardInterrupt), memory.Watch():
        raise KeyboardInterrupt
