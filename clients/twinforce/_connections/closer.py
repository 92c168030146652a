"""A thread that closes things on the way out."""

import _thread
import atexit
import os
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from weakref import finalize

# Seconds to wait for the thread; closing takes milliseconds unless something is stuck.
_PATIENCE_S = 1.0


class Closer:
    """A function that closes what an object owns, in a thread of its own.

    That happens when the function is called, when the object is collected, or at exit, once.

    Closing waits for locks and for the threads of gRPC. Whoever asks for it may be a destructor
    that runs in one of these threads, or may be interrupted by Ctrl-C in the middle and ask
    again. So it is left to a thread that hears no signals, and nobody waits for that without a
    limit. In a process that was forked nothing is closed.

    Args:
        owner: The object.
        close: Function that closes; it must not hold the object.
    """

    def __init__(self, owner: object, close: Callable[[], object]) -> None:
        self._pid = os.getpid()
        self._orders: SimpleQueue[None] = SimpleQueue()
        self._closed: SimpleQueue[None] = SimpleQueue()
        # Started now, because that is impossible at exit; and not by `Thread.start`, which waits
        # for the thread by a condition that an interrupt breaks. After a fork, the frame of the
        # thread keeps what `close` would close, so that no destructor closes it in the child.
        _thread.start_new_thread(_close_when_told, (self._orders, close, self._closed))
        finalize(owner, self.order).atexit = False
        _OPEN.add(self)

    def __call__(self) -> None:
        """Close, and wait until it is done, but not for long."""
        self.order()
        self.wait(_PATIENCE_S)

    def order(self) -> None:
        """Let the thread close, and do not wait for it."""
        self._orders.put(None)
        _OPEN.discard(self)

    def wait(self, seconds: float) -> None:
        """Wait until it is closed, at most so long; not in a process that was forked."""
        if os.getpid() == self._pid:
            with suppress(Empty):
                self._closed.put(self._closed.get(timeout=max(seconds, 0.0)))


_OPEN: set[Closer] = set()


def _close_all() -> None:
    closers, give_up_at = list(_OPEN), time.monotonic() + _PATIENCE_S
    for closer in closers:
        closer.order()
    for closer in closers:
        closer.wait(give_up_at - time.monotonic())


# Registered at import, thus before the exit functions of a program that may use a client in them;
# exit functions run in reverse, and those of a child run after it has made connections.
atexit.register(_close_all)


def _close_when_told(
    orders: "SimpleQueue[None]", close: Callable[[], object], closed: "SimpleQueue[None]"
) -> None:
    orders.get()
    close()
    closed.put(None)
