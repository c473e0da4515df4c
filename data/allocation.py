"""Memory that training frees and asks for again a moment later is kept by the process, where glibc allows it.

By default glibc maps every large array anew and gives it back when it is freed, so that each step of a convolutional
network pays for thousands of fresh pages: nearly half of its time on two cores (docs/experiments.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NEVER = 2**31 - 1
DEFAULTS = {M_TRIM_THRESHOLD: 128 * 1024, M_MMAP_MAX: 65536}


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within it freed arrays stay with the process, for its next ones; afterwards they are given back.

    For many steps over arrays of the same sizes: arrays of many sizes would scatter and hold several times what is in
    use. Does nothing with another C library.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, trim = libc.mallopt, libc.malloc_trim
    except (AttributeError, OSError, TypeError):
        yield
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        for parameter, value in DEFAULTS.items():
            mallopt(parameter, value)
        trim(0)
