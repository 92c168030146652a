"""A reply of lines, each sent as soon as it is there."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from twinforce_proto import RequestCancelledError, ServiceError
from twinforce_proto.headers import JSON_LINES
from twinforce_service.transports.rest.dynamics_bodies import write_error_line
from twinforce_service.transports.rest.requests import while_connected


class LinesResponse(Response):
    """A reply that is sent line by line while the client reads it.

    Args:
        first: First line.
        others: Lines that follow; a `ServiceError` becomes the last line.
    """

    media_type = JSON_LINES

    def __init__(self, first: bytes, others: AsyncGenerator[bytes, None]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._first = first
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all lines, or those until the client disconnects."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        try:
            await while_connected(Request(scope, receive), self._send_lines(send))
        except RequestCancelledError:  # there is no client to report it to
            return

    async def _send_lines(self, send: Send) -> None:
        async with aclosing(self._others):
            await send(_body(self._first))
            try:
                async for line in self._others:
                    await send(_body(line))
            except ServiceError as error:
                await send(_body(write_error_line(error)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _body(line: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": line, "more_body": True}
