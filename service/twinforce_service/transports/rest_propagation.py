"""Propagation over HTTP: a reply of lines that grows as a system moves."""

from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from functools import partial

from fastapi import APIRouter
from fastapi import Request as HTTPRequest
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from twinforce_dynamics.messages import PropagateRequest
from twinforce_proto import RequestCancelledError, ServiceError
from twinforce_service.engine import Engine
from twinforce_service.metrics import Metrics
from twinforce_service.propagation import Propagations
from twinforce_service.transports import documentation
from twinforce_service.transports.bodies import JSON, PROTOBUF
from twinforce_service.transports.calls import aside, counted, snapshot_bytes
from twinforce_service.transports.incoming import body_type, read_body, timeout_of, while_there
from twinforce_service.transports.propagation_bodies import (
    LINES,
    read_propagate_json,
    read_propagate_protobuf,
    write_error_line,
    write_snapshot_line,
)

_READERS = {JSON: read_propagate_json, PROTOBUF: read_propagate_protobuf}


class LinesResponse(Response):
    """A reply that is written line by line, while the caller is there to read it.

    Args:
        first: Line.
        others: What follows; an error of the tree becomes the last line.
    """

    media_type = LINES

    def __init__(self, first: bytes, others: AsyncGenerator[bytes, None]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._first = first
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write all lines, or as many as are read."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        try:
            await while_there(HTTPRequest(scope, receive), self._write(send))
        except RequestCancelledError:  # who would be told has gone
            return

    async def _write(self, send: Send) -> None:
        async with aclosing(self._others):
            await send(_body(self._first))
            try:
                async for line in self._others:
                    await send(_body(line))
            except ServiceError as error:
                await send(_body(write_error_line(error)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def propagation_paths(
    engine: Engine, propagations: Propagations, metrics: Metrics, max_body_bytes: int
) -> APIRouter:
    """Return the path that moves systems."""
    router = APIRouter(prefix="/v1/models/{model}", tags=["dynamics"])

    async def lines(
        wanted: PropagateRequest, timeout: float | None, counting: ExitStack
    ) -> AsyncGenerator[bytes, None]:
        with counting:
            async with aclosing(propagations.snapshots(wanted, timeout)) as snapshots:
                async for snapshot in snapshots:
                    write = partial(write_snapshot_line, snapshot)
                    yield await aside(snapshot_bytes(snapshot), write)

    @router.post("/propagate", response_class=Response, **documentation.PROPAGATE)
    async def propagate(request: HTTPRequest, model: str) -> Response:
        read = _READERS[body_type(request)]
        with ExitStack() as counting:
            counting.enter_context(counted(metrics, "rest", engine, model))
            body = await read_body(request, max_body_bytes)
            timeout = timeout_of(request)
            engine.find(model)
            wanted = await aside(len(body), partial(read, body, model))
            written = lines(wanted, timeout, counting.pop_all())
        # What is refused at once, or fails at the start, gets a status of its own.
        first = await while_there(request, anext(written))
        return LinesResponse(first, written)

    return router


def _body(line: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": line, "more_body": True}
