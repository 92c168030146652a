"""The gate before all REST paths: requests are for this service, and have a key."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from twinforce_proto import ServiceError, UnauthenticatedError
from twinforce_service.transports.key_check import KeyCheck
from twinforce_service.transports.rest.page.router import is_part_of_page
from twinforce_service.transports.rest.problems import plain_problem, problem_of

# Supervisors have no key, and ask by address; the answer tells only that the process works.
_OPEN = {"/health/live"}
# Bodies that are not read are discarded as they come, up to this size; otherwise the connection is
# closed.
_MOST_DISCARDED = 2**20


class Gate:
    """ASGI middleware that refuses requests before it reads their bodies.

    Args:
        app: Application that answers the requests.
        key_check: Check of keys; None means that no key is needed.
        trusted_hosts: Names that the header Host may have, without ports; `*.NAME` stands for all
            names below another. None means any.
        has_page: True to let everyone see the page, which asks its user for a key.
    """

    def __init__(
        self,
        app: ASGIApp,
        key_check: KeyCheck | None = None,
        trusted_hosts: frozenset[str] | None = None,
        *,
        has_page: bool = False,
    ) -> None:
        self._app = app
        self._has_page = has_page
        self._key_check = key_check
        self._trusted_hosts = trusted_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            request = Request(scope)
            if (refusal := await self._refusal(request)) is not None:
                if _is_long(request):
                    refusal.headers["Connection"] = "close"
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _refusal(self, request: Request) -> Response | None:
        """Return the reply to a request that is refused."""
        if self._trusted_hosts is not None:
            host = request.headers.get("host", "")
            if not _is_trusted(_name_in(host), self._trusted_hosts):
                expected = ", ".join(sorted(self._trusted_hosts))
                detail = f"Host: expected {expected} (see --trusted-hosts), got {host[:100]!r}"
                status = HTTPStatus.MISDIRECTED_REQUEST
                return plain_problem(status, detail, path=request.scope["path"])
        if self._key_check is not None and not (self._has_page and _is_for_page(request)):
            try:
                await _check(self._key_check, request)
            except ServiceError as error:
                return problem_of(error, request.scope["path"])
        return None


async def _check(key_check: KeyCheck, request: Request) -> None:
    values = request.headers.getlist("authorization")
    if len(values) > 1:
        raise UnauthenticatedError("authorization: expected one header, got several")
    value = values[0] if values else None
    if not key_check.passes(value):
        await key_check.verify(value, request.client.host if request.client else "")


def _is_for_page(request: Request) -> bool:
    return is_part_of_page(request.method, request.scope["path"], request.headers.get("accept", ""))


def _name_in(host: str) -> str:
    """Return the name in a header Host, without its port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower().rstrip(".")


def _is_trusted(name: str, trusted_hosts: frozenset[str]) -> bool:
    if name in trusted_hosts or "*" in trusted_hosts:
        return True
    return any(each.startswith("*.") and name.endswith(each[1:]) for each in trusted_hosts)


def _is_long(request: Request) -> bool:
    length = request.headers.get("content-length", "0")
    is_short = length.isdecimal() and int(length) <= _MOST_DISCARDED
    return not is_short or "transfer-encoding" in request.headers
