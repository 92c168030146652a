"""The paths of the page."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter
from fastapi import Request as HTTPRequest
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from twinforce_proto import RequestCancelledError, ServiceError
from twinforce_service.transports.rest.page.assets import read_assets
from twinforce_service.transports.rest.page.live import LiveState
from twinforce_service.transports.rest.requests import while_connected

_HOME, _FOLDER = "/", "/page/"
_DOCS, _DOCS_FOLDER = "/docs", "/docs/assets/"
_TEXT = "text/html"
_NOT_FOUND = 404
# Seconds that a viewer may leave an event unread.
_PATIENCE_S = 30.0


def is_part_of_page(method: str, path: str, accept: str) -> bool:
    """Return True if a request is for the page, which everyone may see, and not for what it shows.

    Args:
        method: HTTP method.
        path: Path of the URL.
        accept: Media types that the client accepts: only browsers ask for HTML.
    """
    if method not in ("GET", "HEAD"):
        return False
    if path.startswith((_FOLDER, _DOCS_FOLDER)):
        return True
    return path in (_HOME, _DOCS) and _TEXT in accept


def page_router(live: LiveState) -> APIRouter:
    """Return the router of the page, its files, and the events that it follows."""
    router = APIRouter()
    assets = read_assets()

    @router.get(_HOME, include_in_schema=False)
    async def show_page(request: HTTPRequest) -> Response:
        if not is_part_of_page("GET", _HOME, request.headers.get("accept", "")):
            raise HTTPException(_NOT_FOUND)
        response = assets["index.html"].response(request)
        response.headers["Vary"] = "Accept"
        return response

    # The description that it shows is not a part of it.
    @router.get(_DOCS, include_in_schema=False)
    async def show_docs(request: HTTPRequest) -> Response:
        return assets["reference.html"].response(request)

    @router.get(f"{_FOLDER}{{name:path}}", include_in_schema=False)
    async def show_asset(request: HTTPRequest, name: str) -> Response:
        if (asset := assets.get(name)) is None:
            raise HTTPException(_NOT_FOUND)
        return asset.response(request)

    # Not in the description: programs that try all that it lists would wait for the end.
    @router.get("/v1/events", include_in_schema=False)
    async def follow_state() -> Response:
        events = live.follow()
        return _EventsResponse(await anext(events), events)

    return router


class _EventsResponse(Response):
    """A reply of server-sent events, which ends when the client disconnects or stops reading.

    Args:
        first: First event.
        others: Events that follow.
    """

    media_type = "text/event-stream"

    def __init__(self, first: bytes, others: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await while_connected(Request(scope, receive), self._send_events(send))
        except RequestCancelledError:
            return

    async def _send_events(self, send: Send) -> None:
        async with aclosing(self._others) as others:
            await send(_part(self._first))
            try:
                async for event in others:
                    async with asyncio.timeout(_PATIENCE_S):
                        await send(_part(event))
            except TimeoutError:
                return  # a last part would wait like the one before
            except ServiceError:
                pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _part(event: bytes) -> Message:
    return {"type": "http.response.body", "body": event, "more_body": True}
