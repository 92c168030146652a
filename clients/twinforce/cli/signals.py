"""Signals that ask a command to stop."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Those of a batch system or a closed terminal. Windows lacks two of these signals.
_WORDS = {
    getattr(signal, name): word
    for name, word in {"SIGTERM": "terminated", "SIGHUP": "hung up"}.items()
    if hasattr(signal, name)
}
_ENDING = tuple(_WORDS)
_ALARM = (signal.SIGALRM,) if hasattr(signal, "SIGALRM") else ()

# A batch system grants ten seconds or more between SIGTERM and SIGKILL.
_GRACE_S = 5.0

_Handler = Callable[[int, FrameType | None], Any]


class Interrupted(KeyboardInterrupt):
    """A command was asked to stop by a signal.

    Args:
        number: Number of the signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        self.number = number
        super().__init__(_WORDS.get(number, "interrupted"))


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` inside this context if the process is told to end."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    with _heard(_ENDING, interrupt):
        yield


class StopRequest:
    """A request to stop after the current step, made by a signal.

    While it is open, the first signal only sets `number`. A second one, or five seconds without a
    new step, raise `Interrupted`.

    Attributes:
        number: Number of the signal; None if there was none.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to signals inside this context."""
        try:
            with _heard((signal.SIGINT, *_ENDING, *_ALARM), self._hear):
                yield
        finally:
            if self.number is not None and _ALARM:
                signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self.number is not None:
            raise Interrupted(self.number)
        self.number = number
        if _ALARM:
            signal.setitimer(signal.ITIMER_REAL, _GRACE_S)


@contextmanager
def _heard(
    numbers: Iterable[int], handle: Callable[[int, FrameType | None], Any]
) -> Iterator[None]:
    """Handle signals inside this context, except those that are ignored, as under `nohup`."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
