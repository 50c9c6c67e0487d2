"""What becomes of freed memory: kept for the next array, instead of given back to the system page by page."""

from __future__ import annotations

import ctypes
import platform

# glibc's mallopt(3), <malloc.h>
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_STEP = 256 * 2**20


def keep_freed_memory() -> bool:
    """Make this process keep what it frees; whether that was possible (glibc only).

    A model's large intermediate arrays otherwise come fresh from the system each time, and the page faults on them take
    a third of its CPU time. The price: the process stays as large as it ever was. All threads share one arena, since
    the others of glibc hold no large arrays. For processes of our own; a library has no business in its caller's.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _STEP), (_M_ARENA_MAX, 1))
    done = [mallopt(name, value) for name, value in settings]
    return 0 not in done
