"""Freed memory kept for the next step, on Linux CPUs."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc
_MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Tell glibc's malloc not to give memory back to the system.

    A training step frees and takes the same large blocks again and again. By default each comes as a new mapping,
    whose pages the kernel clears at first touch: a third of a step's time on a CPU (docs/tables/speed.md). Where the C
    library is another one, nothing happens.
    """
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, _MOST)
    except (OSError, AttributeError):
        return
