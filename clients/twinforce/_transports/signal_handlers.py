"""Exceptions of signal handlers, which libraries below may take for their own."""

import signal
from types import CodeType
from typing import Any


def exception_of_handler(error: BaseException) -> BaseException | None:
    """Return the exception of a signal handler that an error stands for; None if there is none.

    A handler that gives a program so much time may raise TimeoutError, or any other OSError, in the
    middle of a call. The HTTP library then reports that a socket has failed.
    """
    codes = {_code(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    for each in reversed(_chain(error)):
        traceback = each.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code in codes:
                return each
            traceback = traceback.tb_next
    return None


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error, what led to it, and so on to the first cause."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _code(handler: Any) -> CodeType | None:
    """Return the code of a handler, which may be wrapped in a `partial` or be callable itself."""
    while hasattr(handler, "func"):
        handler = handler.func
    code = getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None
