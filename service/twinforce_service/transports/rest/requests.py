"""What comes in over HTTP before it means anything: names, sizes, forms, and who has left."""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twinforce_proto import (
    InvalidRequestError,
    RequestCancelledError,
    ServiceError,
    SystemTooLargeError,
)
from twinforce_proto.headers import JSON, PROTOBUF, REQUEST_ID, TIMEOUT
from twinforce_service.context import choose_request_id, request_id
from twinforce_service.transports.rest.problems import UnsupportedMediaTypeError, problem_of

logger = logging.getLogger(__name__)


_Result = TypeVar("_Result")

# A caller that still sends its body does not read our refusal, so the rest of one that is too
# large is read and thrown away: up to this many times the limit, and for this long, in s.
_MAX_DISCARDED, _DISCARD_TIMEOUT = 4, 10.0


class RequestScope:
    """ASGI middleware: each request gets a name, and an answer even if our own code fails."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = choose_request_id(Request(scope).headers.get(REQUEST_ID))
        request_id.set(name)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = name
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception:
            logger.exception("a request failed", extra={"path": scope["path"]})
            error = ServiceError("internal error; the logs of the service say more")
            await problem_of(error)(scope, receive, send_named)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body of a request.

    Raises:
        SystemTooLargeError: When it is larger than this.
        RequestCancelledError: When the caller goes away before its end.
    """
    chunks: list[bytes] = []
    n_bytes = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise RequestCancelledError("the caller went away")
        chunks.append(message.get("body", b""))
        n_bytes += len(chunks[-1])
        if n_bytes > max_bytes:
            chunks.clear()
            if message.get("more_body", False):
                await _discard(request, _MAX_DISCARDED * max_bytes)
            raise SystemTooLargeError(f"body: expected at most {max_bytes} bytes", field="body")
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def wait_until_gone(request: Request, then: Callable[[], object]) -> None:
    """Once the body is read: call `then` as soon as the caller closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    then()


async def while_there(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Once the body is read: return what the work gives, unless the caller goes away first.

    Raises:
        RequestCancelledError: It did, and the work was cancelled.
    """
    task = asyncio.create_task(work)
    watch = asyncio.create_task(wait_until_gone(request, task.cancel))
    try:
        await asyncio.wait([task])
        if task.cancelled():
            raise RequestCancelledError("the caller went away")
        return task.result()
    finally:
        watch.cancel()
        task.cancel()


def body_type(request: Request) -> str:
    """Return which of the forms that are read a body has; JSON where nothing is said.

    Raises:
        UnsupportedMediaTypeError: For any other.
    """
    named = request.headers.get("content-type", JSON)
    media_type = named.partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").lower()
    if media_type not in (JSON, PROTOBUF) or encoding != "identity":
        raise UnsupportedMediaTypeError(
            f"expected a body of {JSON} or {PROTOBUF}, not compressed; got {named} ({encoding})"
        )
    return media_type


def reply_type(request: Request) -> str:
    """Return the form of the reply: what the caller accepts, else that of its body."""
    accepted = request.headers.get("accept", "")
    if PROTOBUF in accepted:
        return PROTOBUF
    if JSON in accepted or request.method == "GET":
        return JSON
    return body_type(request)


def timeout_of(request: Request) -> float | None:
    """Return how long the caller waits, in s; None where it does not say.

    Raises:
        InvalidRequestError: When it says no positive number.
    """
    text = request.headers.get(TIMEOUT)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (0 < seconds < math.inf):
        raise InvalidRequestError(
            f"{TIMEOUT}: expected a positive number of seconds, got {text!r}",
            field=TIMEOUT,
        )
    return seconds


async def _discard(request: Request, max_bytes: int) -> None:
    n_bytes = 0
    try:
        async with asyncio.timeout(_DISCARD_TIMEOUT):
            while n_bytes <= max_bytes:
                message = await request.receive()
                n_bytes += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
