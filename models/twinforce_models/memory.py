"""Reuse of freed CPU memory between evaluations."""

import ctypes

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1
_NEVER = -1


def keep_freed_memory() -> None:
    """Stop the C library from returning freed memory to the system.

    An evaluation frees tensors of some megabytes that the next one allocates again. By default,
    glibc returns them to the system in between, and the page faults of allocating them anew can
    take as long as the evaluation of direct forces itself. As a consequence, the process stays as
    large as its largest evaluation made it. Without glibc, this function does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _NEVER)
