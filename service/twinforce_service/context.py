"""Context variables of the current request: its id, trace, urgency, caller and permission."""

import re
import uuid
from contextvars import ContextVar
from typing import Protocol

from twinforce_proto import InvalidRequestError, UnauthenticatedError
from twinforce_proto.headers import LEAST_URGENT, MOST_URGENT, NORMAL_URGENCY, URGENCY
from twinforce_service.callers.caller import UNKNOWN, Caller, caller_at
from twinforce_service.callers.permission import EVERYTHING, Permission

request_id: ContextVar[str] = ContextVar("request_id", default="")
urgency: ContextVar[int] = ContextVar("urgency", default=NORMAL_URGENCY)
caller: ContextVar[Caller] = ContextVar("caller", default=UNKNOWN)
connection: ContextVar[str] = ContextVar("connection", default="")
trace_parent: ContextVar[str] = ContextVar("trace_parent", default="")
"""Span of the caller, in the form of W3C Trace Context; empty if it gives none."""
trace: ContextVar[str] = ContextVar("trace", default="")
"""Span of the current call, in the same form; empty unless it is recorded."""
permission: ContextVar[Permission] = ContextVar("permission", default=EVERYTHING)


class CheckAgain(Protocol):
    """Checks the key of a stream or run again, which may have been revoked since it began."""

    def __call__(self, *, may_be_expired: bool = False) -> None:
        """Raise `UnauthenticatedError` if the key is not valid any more."""


def _stays_valid(*, may_be_expired: bool = False) -> None:
    """Accept what needs no key."""


check_again: ContextVar[CheckAgain] = ContextVar("check_again", default=_stays_valid)


def has_valid_key() -> bool:
    """Return True if the key of the current request is still valid."""
    try:
        check_again.get()()
    except UnauthenticatedError:
        return False
    return True


# Version, trace, span and flags; later versions may add something.
_TRACE = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
_TRACE_LETTERS = 55
_VALID_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def choose_request_id(given: str | None) -> str:
    """Return the id that the client has given if it is valid, otherwise a new one."""
    if given is not None and _VALID_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


def set_trace_parent(given: str | bytes | None) -> None:
    """Note the span of the caller, as in W3C Trace Context; what is invalid counts as none."""
    found = _TRACE.fullmatch(given) if given and isinstance(given, str) else None
    is_valid = found is not None and not (found[1] == "00" and found[2])
    trace_parent.set(str(given)[:_TRACE_LETTERS] if is_valid else "")


def trace_id_of(parent: str) -> str:
    """Return the id of the trace that a span belongs to; empty if there is no span."""
    return parent[3:35]


def set_urgency(given: str | bytes | None) -> None:
    """Set the urgency of the current request to the one that the client has given, if any.

    Raises:
        InvalidRequestError: The urgency is not a whole number from 0 to 7.
    """
    if given is None:
        return
    levels = [str(level) for level in range(MOST_URGENT, LEAST_URGENT + 1)]
    if given not in levels:
        expected = f"a whole number from {MOST_URGENT}, the most urgent, to {LEAST_URGENT}"
        raise InvalidRequestError.expected(URGENCY, expected, repr(given))
    urgency.set(levels.index(str(given)))


def set_peer(host: str, port: int | str, client_id: str | bytes | None = None) -> None:
    """Note where the current request comes from; its caller is the address unless one is known.

    Args:
        host: Address of the peer.
        port: Its port, which tells the connections from one address apart.
        client_id: Name that the client gives to all of its connections, if any.
    """
    if isinstance(client_id, str) and _VALID_ID.fullmatch(client_id):
        connection.set(f"client {client_id}")
    else:
        connection.set(f"{host}:{port}")
    if caller.get() is UNKNOWN:
        caller.set(caller_at(host))
