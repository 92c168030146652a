"""Request-scoped values: the request id and the urgency of the current request."""

import re
import uuid
from contextvars import ContextVar

from twinforce_proto import InvalidRequestError
from twinforce_proto.headers import LEAST_URGENT, MOST_URGENT, NORMAL_URGENCY, URGENCY

# The request that is being answered, as its caller or we named it.
request_id: ContextVar[str] = ContextVar("request_id", default="")


_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def choose_request_id(wanted: str | None) -> str:
    """Return the caller's own name for a request where it is sane, else a new one."""
    if wanted is not None and _SANE_ID.fullmatch(wanted):
        return wanted
    return uuid.uuid4().hex


# The urgency of the request that is being answered.
urgency: ContextVar[int] = ContextVar("urgency", default=NORMAL_URGENCY)


def set_urgency(said: str | bytes | None) -> None:
    """Take what the caller says of the request that is being answered, if anything.

    Raises:
        InvalidRequestError: It is no whole number from 0 to 7.
    """
    if said is None:
        return
    levels = [str(level) for level in range(MOST_URGENT, LEAST_URGENT + 1)]
    if said not in levels:
        raise InvalidRequestError(
            f"{URGENCY}: expected a whole number from {MOST_URGENT}, the most urgent, to "
            f"{LEAST_URGENT}, got {said!r}",
            field=URGENCY,
        )
    urgency.set(levels.index(str(said)))
