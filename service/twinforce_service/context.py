"""Context variables of the current request: its id, urgency, caller, and what that may do."""

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


_VALID_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def choose_request_id(given: str | None) -> str:
    """Return the id that the client has given if it is valid, otherwise a new one."""
    if given is not None and _VALID_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


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
