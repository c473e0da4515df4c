"""Memory that training frees and asks for again a moment later is kept by the process, where glibc allows it.

By default glibc maps every large array anew and gives it back when it is freed, so that each training step pays for
thousands of fresh pages: a third of the processor time on two cores (docs/experiments.md).
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """From now on freed arrays stay with the process, for its next ones; False where the C library cannot do it.

    For long work on arrays of the same sizes. Memory in use stays at its peak.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
