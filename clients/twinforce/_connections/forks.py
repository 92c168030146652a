"""Forks of a process that uses gRPC: an end for its streams, and a warning if that is not enough.

gRPC can be used in a child only if no thread calls it at the fork and no reply is on its way.
Otherwise the child ends the inherited calls with lists of threads that it does not have, and may
crash, even if it makes no calls of its own, or hang when it does. A stream has such a thread even
while nobody uses it: the thread waits for events, with an entry in a list that lies on its stack.
"""

import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Protocol
from weakref import WeakKeyDictionary

# Code of the functions that wait for replies.
_WAITING: set[CodeType] = set()
# Runs that are open, of which the service may send updates at any time; by their identity.
_RUNS: dict[object, None] = {}

# Seconds to wait at a fork until the threads of ended streams are gone; they take milliseconds.
_PATIENCE_S = 2.0
# The function, and its module, in which a thread of gRPC waits for the events of streams.
_WAITS_FOR_EVENTS = ("channel_spin", "grpc._channel")


class Reopening(Protocol):
    """A stream that may be closed at any time, and opens again when it is used."""

    def close(self) -> None:
        """Close the stream."""


_STREAMS: WeakKeyDictionary[Reopening, None] = WeakKeyDictionary()
# Threads that did not end with the streams, so that they serve other users of gRPC.
_FOREIGN: set[int] = set()


def close_before_forks(stream: Reopening) -> None:
    """Close a stream before each fork if gRPC has a thread for any stream."""
    _STREAMS[stream] = None


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


def _close_streams() -> None:
    if not _threads_that_wait():
        return
    for reference in _STREAMS.keyrefs():
        if (stream := reference()) is not None:
            stream.close()
    gives_up_at = time.monotonic() + _PATIENCE_S
    while (threads := _threads_that_wait()) and not _count_calls():
        if time.monotonic() > gives_up_at:
            _FOREIGN.update(threads)
        time.sleep(0.001)


def _threads_that_wait() -> set[int]:
    """Return the threads of gRPC that wait for events of streams."""
    frames = sys._current_frames().items()
    return {thread for thread, frame in frames if _waits_for_events(frame)} - _FOREIGN


def _waits_for_events(frame: FrameType) -> bool:
    names = ((each.f_code.co_name, each.f_globals.get("__name__")) for each in _callers(frame))
    return _WAITS_FOR_EVENTS in names


def _count_calls() -> int:
    """Return the number of other threads that are in a call."""
    own = threading.get_ident()
    frames = sys._current_frames().items()
    return sum(thread != own and _is_waiting(frame) for thread, frame in frames)


def _is_waiting(frame: FrameType) -> bool:
    return any(each.f_code in _WAITING for each in _callers(frame))


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame, and those that called it."""
    while frame is not None:
        yield frame
        frame = frame.f_back


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_streams, after_in_child=_FOREIGN.clear)
    os.register_at_fork(before=_warn, after_in_child=_RUNS.clear)
