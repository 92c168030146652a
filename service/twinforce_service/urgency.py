"""How urgent what a caller asks is, beside what others ask."""

from contextvars import ContextVar

from twinforce_proto import InvalidRequestError

# Of the header of a request over HTTP, and of the metadata of a call over gRPC.
URGENCY_NAME = "x-urgency"
MOST_URGENT, NORMAL, LEAST_URGENT = 0, 3, 7

# Of the request that is being answered.
urgency: ContextVar[int] = ContextVar("urgency", default=NORMAL)


def heed(said: str | bytes | None) -> None:
    """Take what the caller says of the request that is being answered, if anything.

    Raises:
        InvalidRequestError: It is no whole number from 0 to 7.
    """
    if said is None:
        return
    levels = [str(level) for level in range(MOST_URGENT, LEAST_URGENT + 1)]
    if said not in levels:
        raise InvalidRequestError(
            f"{URGENCY_NAME}: expected a whole number from {MOST_URGENT}, the most urgent, to "
            f"{LEAST_URGENT}, got {said!r}",
            field=URGENCY_NAME,
        )
    urgency.set(levels.index(str(said)))
