"""A lightweight future for answers that callbacks take, without a way to block on it."""

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


_PENDING, _RUNNING, _CANCELLED, _DONE = _State
_OVER = _CANCELLED, _DONE

# One lock for all replies is enough, as it is held for a few instructions only.
_CHANGING = Lock()


class Reply:
    """A subset of `concurrent.futures.Future` without a way to wait, at a fraction of its cost.

    Its methods do the same as those of `Future`.
    """

    __slots__ = ("_callbacks", "_error", "_result", "_state")

    def __init__(self) -> None:
        self._state = _PENDING
        self._callbacks: list[Callable[[Any], object]] = []
        self._result: Any = None
        self._error: BaseException | None = None

    def cancel(self) -> bool:
        """Cancel the reply unless it is running; return True if it is canceled."""
        with _CHANGING:
            was = self._state
            if was is _PENDING:
                self._state = _CANCELLED
        if was is _PENDING:
            self._call_all()
        return was in (_PENDING, _CANCELLED)

    def cancelled(self) -> bool:
        """Return True if the reply was canceled."""
        return self._state is _CANCELLED

    def done(self) -> bool:
        """Return True if the reply has a result or an error, or was canceled."""
        return self._state in _OVER

    def set_running_or_notify_cancel(self) -> bool:
        """Mark the reply as running and return True, unless it was canceled."""
        with _CHANGING:
            if self._state is _PENDING:
                self._state = _RUNNING
        return self._state is not _CANCELLED

    def set_result(self, result: Any) -> None:
        """Set the result and call the callbacks."""
        self._end(result, None)

    def set_exception(self, error: BaseException) -> None:
        """Set the error and call the callbacks."""
        self._end(None, error)

    def result(self) -> Any:
        """Return the result, or raise the error."""
        if (error := self.exception()) is not None:
            raise error
        return self._result

    def exception(self) -> BaseException | None:
        """Return the error, or None if there is a result."""
        if self._state is _CANCELLED:
            raise CancelledError
        if self._state is not _DONE:
            raise InvalidStateError("the reply is not done yet")
        return self._error

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        """Call `call` with the reply once it is done, in the thread that completes it.

        If the reply is done already, `call` is called at once.
        """
        with _CHANGING:
            is_done = self._state in _OVER
            if not is_done:
                self._callbacks.append(call)
        if is_done:
            self._call_one(call)

    def _end(self, result: Any, error: BaseException | None) -> None:
        with _CHANGING:
            if self._state in _OVER:
                raise InvalidStateError("the reply is done already")
            self._result, self._error, self._state = result, error, _DONE
        self._call_all()

    def _call_all(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for call in callbacks:
            self._call_one(call)

    def _call_one(self, call: Callable[[Any], object]) -> None:
        try:
            call(self)
        except Exception:
            logger.exception("a callback of a reply failed")


def reply() -> "Future[Any]":
    """Return a new `Reply`, typed as the `Future` that it stands in for."""
    return cast("Future[Any]", Reply())
