"""How the C library's allocator treats freed memory, which decides a quarter of a CPU training step."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGEST_MMAP = 2**30
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, to be used again by the next step.

    By default glibc hands every large buffer back to the kernel, and each training step then takes thousands of page
    faults to get the same memory again (``make bench`` counts them). Peak memory stays as it is.

    Returns:
        Whether the C library has the setting; others keep their own way.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP)) and bool(library.mallopt(_TRIM_THRESHOLD, _NEVER))
