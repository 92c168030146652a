"""Keeping the memory of the CPU that an evaluation frees, for the next one."""

import ctypes

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1
_NEVER = -1


def keep_freed_memory() -> None:
    """Stop the C library from handing freed memory back to the system.

    An evaluation frees tensors of some megabytes that the next one asks for again. By default glibc
    returns them to the system in between, and the page faults of getting them back can take as
    long as the evaluation of direct forces itself. Does nothing where there is no glibc. A process
    so stays as large as its largest evaluation made it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _NEVER)
