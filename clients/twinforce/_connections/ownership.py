"""Values that belong to one process or one event loop, and must be left alone in another."""

import asyncio
import ctypes
import os
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class OfProcess(Generic[T]):
    """A value that each process makes for itself when it first needs it.

    It takes no lock: at a fork another thread might hold it, and a signal handler or a destructor
    might need it while the interrupted code holds it.

    Args:
        make: Function that makes the value; of two threads that make it at once, one prevails.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[int, T] = {}

    def get(self) -> T:
        """Return the value of this process."""
        pid = os.getpid()
        if (value := self._values.get(pid)) is not None:
            return value
        return self._values.setdefault(pid, self._make())


class OfLoop(Generic[T]):
    """A value that each event loop makes for itself when it first needs it.

    Args:
        make: Function that makes the value.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: OfProcess[dict[AbstractEventLoop, T]] = OfProcess(dict)

    def get(self) -> T:
        """Return the value of the running loop."""
        values, loop = self._values.get(), asyncio.get_running_loop()
        if loop not in values:
            for ended in [each for each in list(values) if each.is_closed()]:
                values.pop(ended, None)
            values[loop] = self._make()
        return values[loop]

    def items(self) -> list[tuple[AbstractEventLoop, T]]:
        """Return the loops of this process that have not ended, and their values."""
        values = list(self._values.get().items())
        return [(loop, value) for loop, value in values if not loop.is_closed()]


def abandon(thing: object) -> None:
    """Keep an object of another process for good, because its destructor would use its locks.

    At exit Python clears modules and calls destructors; one more reference keeps it from that.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
