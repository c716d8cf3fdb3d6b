"""The C library's memory allocator, told to keep what training and parsing free and ask for again at once."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks: handing them back to the kernel costs up to two thirds of the speed.

    Does nothing but on Linux with glibc. Call it once, before the work.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
