"""A future that nobody blocks on: what an answer needs where a callback takes it."""

import logging
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from enum import Enum, auto
from threading import Lock
from typing import Any, cast

logger = logging.getLogger(__name__)


class _State(Enum):
    PENDING = auto()
    RUNNING = auto()
    CANCELLED = auto()
    DONE = auto()


# Held for a few instructions only, so that one is enough.
_CHANGING = Lock()


class Reply:
    """As `concurrent.futures.Future`, at a fraction of its cost, without a way to wait.

    Its methods do what those of the same name there do.
    """

    __slots__ = ("_callbacks", "_error", "_result", "_state")

    def __init__(self) -> None:
        self._state = _State.PENDING
        self._callbacks: list[Callable[[Any], object]] = []
        self._result: Any = None
        self._error: BaseException | None = None

    def cancel(self) -> bool:
        """Give up, unless it is being answered; return whether nobody will answer."""
        with _CHANGING:
            was = self._state
            if was is _State.PENDING:
                self._state = _State.CANCELLED
        if was is _State.PENDING:
            self._call()
        return was in (_State.PENDING, _State.CANCELLED)

    def cancelled(self) -> bool:
        """Tell whether it was given up."""
        return self._state is _State.CANCELLED

    def done(self) -> bool:
        """Tell whether it was answered or given up."""
        return self._state in (_State.DONE, _State.CANCELLED)

    def set_running_or_notify_cancel(self) -> bool:
        """Say that it will be answered, and return True, unless it was given up."""
        with _CHANGING:
            if self._state is _State.PENDING:
                self._state = _State.RUNNING
        return self._state is not _State.CANCELLED

    def set_result(self, result: Any) -> None:
        """Answer."""
        self._end(result, None)

    def set_exception(self, error: BaseException) -> None:
        """Answer with an error."""
        self._end(None, error)

    def result(self) -> Any:
        """Return the answer, or raise the error that it is."""
        if (error := self.exception()) is not None:
            raise error
        return self._result

    def exception(self) -> BaseException | None:
        """Return the error that the answer is, if it is one."""
        if self._state is _State.CANCELLED:
            raise CancelledError
        if self._state is not _State.DONE:
            raise InvalidStateError("there is no answer yet")
        return self._error

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        """Call this with the reply once it is done, in the thread that did it; now if it is."""
        with _CHANGING:
            is_done = self._state in (_State.DONE, _State.CANCELLED)
            if not is_done:
                self._callbacks.append(call)
        if is_done:
            self._tell(call)

    def _end(self, result: Any, error: BaseException | None) -> None:
        with _CHANGING:
            if self._state in (_State.DONE, _State.CANCELLED):
                raise InvalidStateError("there is an answer already")
            self._result, self._error, self._state = result, error, _State.DONE
        self._call()

    def _call(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for call in callbacks:
            self._tell(call)

    def _tell(self, call: Callable[[Any], object]) -> None:
        try:
            call(self)
        except Exception:
            logger.exception("what was to be told of a reply failed")


def reply() -> "Future[Any]":
    """Return a new `Reply`, as what it stands in for."""
    return cast("Future[Any]", Reply())
