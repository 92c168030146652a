"""A warning for forks that gRPC does not support.

gRPC can be used in a child only if no thread calls it at the fork and no reply is on its way.
Otherwise the child ends the inherited calls with lists of threads that it does not have, and may
crash, even if it makes no calls of its own, or hang when it does.
"""

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

# Code of the functions that wait for replies.
_WAITING: set[CodeType] = set()
# Runs that are open, of which the service may send updates at any time; by their identity.
_RUNS: dict[object, None] = {}


def waits_for_replies(code: CodeType) -> None:
    """Register the code of a function that calls gRPC and waits for the reply."""
    _WAITING.add(code)


@contextmanager
def open_run() -> Iterator[None]:
    """Mark a run as open, in this process."""
    run = object()
    _RUNS[run] = None
    try:
        yield
    finally:
        _RUNS.pop(run, None)


def _warn() -> None:
    n_calls, n_runs = _count_calls(), len(_RUNS)
    if n_calls or n_runs:
        warnings.warn(
            f"a fork beside {n_calls} calls and {n_runs} open runs over gRPC, which may crash or "
            "hang the child: end them first, use http://, or start processes by 'spawn' or "
            "'forkserver'",
            RuntimeWarning,
            stacklevel=2,
        )


def _count_calls() -> int:
    """Return the number of other threads that are in a call."""
    own = threading.get_ident()
    frames = sys._current_frames().items()
    return sum(thread != own and _is_waiting(frame) for thread, frame in frames)


def _is_waiting(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _WAITING:
            return True
        frame = frame.f_back
    return False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_warn, after_in_child=_RUNS.clear)
