"""Propagation over HTTP: a reply of lines that grows as a system moves."""

from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from fastapi import APIRouter
from fastapi import Request as HTTPRequest
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from twinforce_proto import RequestCancelledError, ServiceError
from twinforce_proto.headers import JSON, JSON_LINES, PROTOBUF, URGENCY
from twinforce_service.calls.conversion import convert
from twinforce_service.calls.dynamics import Dynamics
from twinforce_service.calls.outcomes import counted
from twinforce_service.context import set_urgency
from twinforce_service.engine.engine import Engine
from twinforce_service.metrics import Metrics
from twinforce_service.transports.rest import openapi
from twinforce_service.transports.rest.dynamics_bodies import (
    read_propagate_json,
    read_propagate_protobuf,
    read_relax_json,
    read_relax_protobuf,
    write_error_line,
    write_relaxed_line,
    write_snapshot_line,
)
from twinforce_service.transports.rest.requests import body_type, read_body, timeout_of, while_there

Wanted = TypeVar("Wanted")
Said = TypeVar("Said")


class LinesResponse(Response):
    """A reply that is written line by line, while the caller is there to read it.

    Args:
        first: Line.
        others: What follows; an error of the tree becomes the last line.
    """

    media_type = JSON_LINES

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


@dataclass(frozen=True, slots=True)
class _Path(Generic[Wanted, Said]):
    """What a path reads, does and writes."""

    read_json: Callable[[bytes, str], Wanted]
    read_protobuf: Callable[[bytes, str], Wanted]
    do: Callable[[Wanted, float | None], AsyncGenerator[Said, None]]
    write: Callable[[Said], bytes]

    def read(self, media_type: str, body: bytes, model: str) -> Wanted:
        read = {JSON: self.read_json, PROTOBUF: self.read_protobuf}[media_type]
        return read(body, model)

    async def lines(
        self, wanted: Wanted, timeout: float | None, n_bytes: int, counting: ExitStack
    ) -> AsyncGenerator[bytes, None]:
        """Yield the lines of the reply, and count the call when it ends."""
        with counting:
            async with aclosing(self.do(wanted, timeout)) as replies:
                async for said in replies:
                    yield await convert(n_bytes, partial(self.write, said))


def dynamics_paths(
    engine: Engine, dynamics: Dynamics, metrics: Metrics, max_body_bytes: int
) -> APIRouter:
    """Return the paths that move systems."""
    router = APIRouter(prefix="/v1/models/{model}", tags=["dynamics"])

    def add(name: str, path: _Path[Any, Any], docs: dict[str, Any]) -> None:
        async def answer(request: HTTPRequest, model: str) -> Response:
            media_type = body_type(request)
            with ExitStack() as counting:
                counting.enter_context(counted(metrics, "rest", engine, model))
                body = await read_body(request, max_body_bytes)
                timeout = timeout_of(request)
                set_urgency(request.headers.get(URGENCY))
                engine.find(model)
                wanted = await convert(len(body), partial(path.read, media_type, body, model))
                lines = path.lines(wanted, timeout, len(body), counting.pop_all())
            # What is refused at once, or fails at the start, gets a status of its own.
            first = await while_there(request, anext(lines))
            return LinesResponse(first, lines)

        router.add_api_route(f"/{name}", answer, methods=["POST"], response_class=Response, **docs)

    propagate = _Path(
        read_propagate_json, read_propagate_protobuf, dynamics.snapshots, write_snapshot_line
    )
    relax = _Path(read_relax_json, read_relax_protobuf, dynamics.relaxations, write_relaxed_line)
    add("propagate", propagate, openapi.PROPAGATE)
    add("relax", relax, openapi.RELAX)
    return router


def _body(line: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": line, "more_body": True}
