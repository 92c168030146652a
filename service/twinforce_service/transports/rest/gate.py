"""The gate before all REST paths: requests need a key."""

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from twinforce_proto import ServiceError, UnauthenticatedError
from twinforce_service.transports.key_check import KeyCheck
from twinforce_service.transports.rest.problems import problem_of

# Supervisors have no key; the answer tells nothing but that the process works.
_OPEN = {"/health/live"}
# Bodies that are not read are discarded as they come, up to this size; otherwise the connection is
# closed.
_MOST_DISCARDED = 2**20


class Gate:
    """ASGI middleware that refuses requests without a valid key, before it reads their bodies.

    Args:
        app: Application that answers the requests.
        key_check: Check of keys.
    """

    def __init__(self, app: ASGIApp, key_check: KeyCheck) -> None:
        self._app = app
        self._key_check = key_check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            try:
                await self._check(Request(scope))
            except ServiceError as error:
                reply = problem_of(error)
                if _is_long(Request(scope)):
                    reply.headers["Connection"] = "close"
                await reply(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _check(self, request: Request) -> None:
        values = request.headers.getlist("authorization")
        if len(values) > 1:
            raise UnauthenticatedError("authorization: expected one header, got several")
        value = values[0] if values else None
        if not self._key_check.passes(value):
            await self._key_check.verify(value, request.client.host if request.client else "")


def _is_long(request: Request) -> bool:
    length = request.headers.get("content-length", "0")
    is_short = length.isdecimal() and int(length) <= _MOST_DISCARDED
    return not is_short or "transfer-encoding" in request.headers
