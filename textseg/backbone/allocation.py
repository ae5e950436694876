"""Keeping the memory that a call gives back, instead of asking the system for it anew."""

from __future__ import annotations

import ctypes
import sys

# mallopt's names in glibc's malloc.h, and the largest number it takes.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have this process keep up to 2 GiB of freed memory, large blocks included; whether it does.

    A large network on the CPU spends up to a tenth of its time on pages that the system clears, one
    by one, for activations that the call before gave back. Only glibc (Linux) can be told; the
    memory counts as this process's until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _MOST))
