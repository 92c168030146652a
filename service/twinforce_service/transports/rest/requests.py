"""Read HTTP requests: ids, bodies, media types, timeouts and disconnects."""

import asyncio
import logging
import math
from collections.abc import Awaitable
from typing import TypeVar

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twinforce_proto import (
    InvalidRequestError,
    RequestCancelledError,
)
from twinforce_proto.errors import clipped
from twinforce_proto.headers import (
    CLIENT_ID,
    JSON,
    PROTOBUF,
    REQUEST_ID,
    TIMEOUT,
    TRACE_PARENT,
    WATCH_ID,
)
from twinforce_service.callers.allowances import Allowances
from twinforce_service.calls.intake import Intake
from twinforce_service.calls.message_sizes import request_too_large
from twinforce_service.context import (
    caller,
    choose_request_id,
    request_id,
    set_peer,
    set_trace_parent,
)
from twinforce_service.logs import internal_error
from twinforce_service.transports.rest.problems import UnsupportedMediaTypeError, problem_of
from twinforce_service.transports.rest.rate_limits import rate_limit_headers

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

# A client that still sends its body does not read a reply. So the rest of a body that is too large
# is read and discarded: up to this multiple of the limit, and for this many seconds.
_MAX_DISCARDED, _DISCARD_TIMEOUT = 4, 10.0


class OpenRequests:
    """The requests that are being answered, and the parts of each reply that were sent.

    HTTP/1.1 has no pings, so a client that waits long for a reply asks about its request over
    another connection. It names the request in a header; requests without one are not noted.
    """

    def __init__(self) -> None:
        self._n_sent: dict[str, int] = {}

    def begin(self, watch_id: str | None) -> None:
        """Note that a request is being answered."""
        if watch_id:
            self._n_sent[watch_id] = 0

    def note_part(self, watch_id: str | None) -> None:
        """Note that a part of the body, such as a line, is sent."""
        if watch_id in self._n_sent:
            self._n_sent[watch_id] += 1

    def end(self, watch_id: str | None) -> None:
        """Note that the request was answered."""
        if watch_id:
            self._n_sent.pop(watch_id, None)

    def state_of(self, watch_id: str) -> dict[str, bool | int]:
        """Return the state of a request for its client."""
        return {"is_open": watch_id in self._n_sent, "n_lines_sent": self._n_sent.get(watch_id, 0)}


class RequestScope:
    """ASGI middleware that gives each request an id, and an answer if an exception escapes.

    Args:
        app: Application that answers the requests.
        intake: Intake of the calls; when it closes, so do the connections that are answered.
        open_requests: Where to note the requests that are being answered.
        allowances: What is left of the limits of each caller.
    """

    def __init__(
        self, app: ASGIApp, intake: Intake, open_requests: OpenRequests, allowances: Allowances
    ) -> None:
        self._allowances = allowances
        self._app = app
        self._intake = intake
        self._open = open_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_call = scope["method"] == "POST"
        if is_call:
            self._intake.note_call()
        headers = Request(scope).headers
        chosen, watch_id = choose_request_id(headers.get(REQUEST_ID)), headers.get(WATCH_ID)
        request_id.set(chosen)
        if (client := scope.get("client")) is not None:
            host, port = client
            set_peer(host, port, headers.get(CLIENT_ID))
        set_trace_parent(headers.get(TRACE_PARENT))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                if is_call:
                    await self._intake.may_reply()
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = chosen
                if is_call:
                    headers.update(rate_limit_headers(self._allowances.left(caller.get())))
                if self._intake.is_closing:
                    headers["Connection"] = "close"
            elif message.get("more_body"):
                self._open.note_part(watch_id)
            await send(message)

        has_body = is_call

        async def receive_body() -> Message:
            nonlocal has_body
            if not has_body:  # then only the disconnect of the client can follow
                return await receive()
            message = await self._intake.upload(receive)
            has_body = bool(message.get("more_body", False))
            return message

        self._open.begin(watch_id)
        try:
            await self._app(scope, receive_body, send_with_id)
        except Exception:
            logger.exception("a request failed", extra={"path": scope["path"]})
            problem = problem_of(internal_error(), scope["path"])
            await problem(scope, receive, send_with_id)
        finally:
            self._open.end(watch_id)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body of a request.

    Raises:
        SystemTooLargeError: The body is larger than `max_bytes`.
        RequestCancelledError: The client disconnected before the end of the body.
    """
    chunks: list[bytes] = []
    n_bytes = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise _disconnected()
        chunks.append(message.get("body", b""))
        n_bytes += len(chunks[-1])
        if n_bytes > max_bytes:
            chunks.clear()
            if message.get("more_body", False):
                await _discard(request, _MAX_DISCARDED * max_bytes)
            raise request_too_large(max_bytes)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def while_connected(request: Request, work: Awaitable[_Result]) -> _Result:
    """Return the result of `work`, which is canceled if the client disconnects.

    The body of the request must have been read.

    Raises:
        RequestCancelledError: The client disconnected.
    """
    task = asyncio.current_task()
    assert task is not None

    async def cancel_on_disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        task.cancel()

    watch = asyncio.create_task(cancel_on_disconnect())
    try:
        return await work
    except asyncio.CancelledError as error:
        if watch.done() and not task.uncancel():
            raise _disconnected() from error
        raise
    finally:
        watch.cancel()


def body_type(request: Request, known: tuple[str, ...] = (JSON, PROTOBUF)) -> str:
    """Return the media type of the body; JSON if the request does not name one.

    Args:
        request: The request.
        known: Media types that are read.

    Raises:
        UnsupportedMediaTypeError: The media type is another one, or the body is compressed.
    """
    named = request.headers.get("content-type", JSON)
    media_type = named.partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").lower()
    if media_type not in known or encoding != "identity":
        raise UnsupportedMediaTypeError(
            f"expected an uncompressed body of {' or '.join(known)}, "
            f"got {clipped(named)} ({clipped(encoding)})"
        )
    return media_type


def reply_type(request: Request) -> str:
    """Return the media type of the reply: the accepted one, otherwise that of the body."""
    accepted = request.headers.get("accept", "")
    if PROTOBUF in accepted:
        return PROTOBUF
    if JSON in accepted or request.method == "GET":
        return JSON
    return body_type(request)


def timeout_of(request: Request) -> float | None:
    """Return the timeout of a request, in s, or None if there is none or it is infinite.

    Raises:
        InvalidRequestError: The timeout is not a positive number.
    """
    text = request.headers.get(TIMEOUT)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise InvalidRequestError.expected(TIMEOUT, "a positive number of seconds", repr(text))
    return None if seconds == math.inf else seconds


def _disconnected() -> RequestCancelledError:
    return RequestCancelledError("the client disconnected")


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
