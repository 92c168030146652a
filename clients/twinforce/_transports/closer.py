"""A thread that closes things on the way out."""

import os
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

# Seconds to wait for the thread; closing takes milliseconds unless something is stuck.
_PATIENCE_S = 1.0


class Closer:
    """A function that closes something once, in a thread of its own.

    Closing waits for the threads of gRPC, or for locks. Whoever asks for it may be a destructor
    that runs in one of these threads, or may be interrupted by Ctrl-C in the middle, which would
    leave locks held. So the work is left to a thread that hears no signals, and nobody waits for
    it without a limit. In another process than the one that made it, the function does nothing.

    Args:
        close: The function that closes.
    """

    def __init__(self, close: Callable[[], object]) -> None:
        self._pid = os.getpid()
        self._orders: SimpleQueue[None] = SimpleQueue()
        # After a fork the frame of the thread, which the child never clears, keeps what `close`
        # would close: so its destructor does not run there. Threads cannot be started at exit.
        self._thread = Thread(
            target=_close_when_told, args=(self._orders, close), name="closer", daemon=True
        )
        self._thread.start()

    def __call__(self) -> None:
        """Close, and wait until it is done, but not for long."""
        if os.getpid() == self._pid:
            self._orders.put(None)
            self._thread.join(_PATIENCE_S)


def _close_when_told(orders: "SimpleQueue[None]", close: Callable[[], object]) -> None:
    orders.get()
    close()
