"""The REST paths that answer calls, each described once."""

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

from fastapi import APIRouter
from fastapi import Request as HTTPRequest
from fastapi.responses import Response

from twinforce_proto import PredictRequest
from twinforce_proto.headers import JSON, URGENCY
from twinforce_service.calls.bounds import CallLimits, work_of_wire
from twinforce_service.calls.conversion import Converter
from twinforce_service.calls.descriptions import Calls, StreamingCall, UnaryCall
from twinforce_service.calls.outcomes import Outcomes
from twinforce_service.context import check_again, has_valid_key, permission, set_urgency
from twinforce_service.engine.engine import Engine
from twinforce_service.transports.rest import bodies, dynamics_bodies, openapi
from twinforce_service.transports.rest.counting import work_of
from twinforce_service.transports.rest.lines import LinesResponse
from twinforce_service.transports.rest.requests import (
    body_type,
    read_body,
    reply_type,
    timeout_of,
    while_connected,
)

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")
_Endpoint: TypeAlias = Callable[[HTTPRequest, str], Coroutine[Any, Any, Response]]

# Paths of the predict call whose outputs are fixed.
_FIXED_OUTPUTS = {
    "energy": frozenset({"energy"}),
    "conservative-forces": frozenset({"energy", "conservative_forces"}),
    "direct-forces": frozenset({"energy", "direct_forces"}),
}


@dataclass(frozen=True, slots=True)
class RestPath(Generic[_Request, _Reply]):
    """A path below that of a model, and its JSON bodies.

    Bodies in protobuf are the messages of the call.

    Attributes:
        name: Last part of the path.
        tag: Section of the documentation.
        call: Call that the path answers.
        read_json: Returns the request in a body for a model, or raises a `ServiceError`.
        write_json: Returns the body of a reply to a request; for a streaming call, a line of it.
        docs: OpenAPI description of the path.
    """

    name: str
    tag: str
    call: UnaryCall[_Request, _Reply] | StreamingCall[_Request, _Reply]
    read_json: Callable[[bytes, str, CallLimits], _Request]
    write_json: Callable[[_Request, _Reply], bytes]
    docs: dict[str, Any]

    def read(self, media_type: str, body: bytes, model: str, limits: CallLimits) -> _Request:
        """Return the request in a body, or raise a `ServiceError`."""
        if media_type == JSON:
            request = self.read_json(body, model, limits)
        else:
            message = bodies.parsed_message(self.call.message, body, model, limits)
            request = self.call.decode(message)
        self.call.check(request)
        return request

    def write(self, media_type: str, request: _Request, reply: _Reply) -> bytes:
        """Return the body of a reply."""
        if media_type == JSON:
            return self.write_json(request, reply)
        return self.call.encode(request, reply).SerializeToString()


def paths_of(calls: Calls) -> list[RestPath[Any, Any]]:
    """Return the paths that answer these calls, the most frequent first."""
    return [
        _prediction_path(calls.predict, "predict", bodies.read_predict_json),
        *(_fixed_path(calls.predict, name, outputs) for name, outputs in _FIXED_OUTPUTS.items()),
        RestPath(
            "nonconservativity",
            "predictions",
            calls.nonconservativity,
            bodies.read_nonconservativity_json,
            bodies.write_nonconservativity_json,
            openapi.NONCONSERVATIVITY,
        ),
        RestPath(
            "propagate",
            "dynamics",
            calls.propagate,
            dynamics_bodies.read_propagate_json,
            lambda _, snapshot: dynamics_bodies.write_snapshot_line(snapshot),
            openapi.PROPAGATE,
        ),
        RestPath(
            "relax",
            "dynamics",
            calls.relax,
            dynamics_bodies.read_relax_json,
            lambda _, relaxed: dynamics_bodies.write_relaxed_line(relaxed),
            openapi.RELAX,
        ),
    ]


def _prediction_path(
    call: UnaryCall[PredictRequest, Any],
    name: str,
    read_json: Callable[[bytes, str, CallLimits], PredictRequest],
) -> RestPath[PredictRequest, Any]:
    docs = openapi.prediction_docs(name)
    return RestPath(name, "predictions", call, read_json, bodies.write_predict_json, docs)


def _fixed_path(
    call: UnaryCall[PredictRequest, Any], name: str, outputs: frozenset[str]
) -> RestPath[PredictRequest, Any]:
    """Return a path of the predict call whose outputs are fixed, in both kinds of bodies."""
    fixed = replace(call, decode=partial(bodies.decode_fixed, outputs))
    return _prediction_path(fixed, name, partial(bodies.read_fixed_json, outputs))


def call_router(
    engine: Engine, calls: Calls, outcomes: Outcomes, limits: CallLimits, converter: Converter
) -> APIRouter:
    """Return the router of all paths that answer calls."""
    router = APIRouter(prefix="/v1/models/{model}")
    endpoints = _Endpoints(engine, outcomes, limits, converter)
    for path in paths_of(calls):
        make_endpoint = endpoints.unary if isinstance(path.call, UnaryCall) else endpoints.streaming
        router.add_api_route(
            f"/{path.name}",
            make_endpoint(path),
            name=path.name,
            tags=[path.tag],
            methods=["POST"],
            response_class=Response,
            **path.docs,
        )
    return router


class _Endpoints:
    """Makes the functions that answer the requests to a path."""

    def __init__(
        self, engine: Engine, outcomes: Outcomes, limits: CallLimits, converter: Converter
    ) -> None:
        self._engine = engine
        self._outcomes = outcomes
        self._limits = limits
        self._converter = converter

    def unary(self, path: RestPath[Any, Any]) -> _Endpoint:
        """Return the function that answers a call with one reply."""
        call = path.call
        assert isinstance(call, UnaryCall)

        async def answer(http: HTTPRequest, model: str) -> Response:
            read_type = body_type(http)
            with self._outcomes.of("rest", path.call.scope, model):
                request, timeout = await self._read(path, read_type, http, model)
                reply = await while_connected(http, call.answer(request, timeout))
                write_type = reply_type(http)
                write = partial(path.write, write_type, request, reply)
                content = await self._converter.convert(call.n_bytes(reply), write)
                return Response(content, media_type=write_type)

        return answer

    def streaming(self, path: RestPath[Any, Any]) -> _Endpoint:
        """Return the function that answers a call with lines of JSON."""

        async def answer(http: HTTPRequest, model: str) -> Response:
            read_type = body_type(http)
            with ExitStack() as counting:
                counting.enter_context(self._outcomes.of("rest", path.call.scope, model))
                request, timeout = await self._read(path, read_type, http, model)
                lines = self._lines(path, request, timeout, counting.pop_all())
            # An error before the first line gets an HTTP status, unlike later ones.
            first = await while_connected(http, anext(lines))
            return LinesResponse(first, lines)

        return answer

    async def _read(
        self, path: RestPath[Any, Any], media_type: str, http: HTTPRequest, model: str
    ) -> tuple[Any, float | None]:
        """Return the request in an HTTP request, and its timeout in s."""
        permission.get().require(path.call.scope, model)
        body = await read_body(http, self._limits.max_bytes)
        timeout = timeout_of(http)
        set_urgency(http.headers.get(URGENCY))
        self._engine.find(model)
        n_bytes = work_of(body) if media_type == JSON else work_of_wire(body, path.call.message)
        read = partial(path.read, media_type, body, model, self._limits)
        return await self._converter.convert(n_bytes, read), timeout

    async def _lines(
        self, path: RestPath[Any, Any], request: Any, timeout: float | None, counting: ExitStack
    ) -> AsyncGenerator[bytes, None]:
        """Yield the lines of the reply, and count the call when it ends."""
        call = path.call
        assert isinstance(call, StreamingCall)
        with counting:
            async with aclosing(call.answer(request, timeout)) as replies:
                was_valid = True
                async for reply in replies:
                    # What began with a valid key is sent, so that each call makes progress.
                    check_again.get()(may_be_expired=was_valid)
                    was_valid = has_valid_key()
                    write = partial(path.write_json, request, reply)
                    yield await self._converter.convert(call.n_bytes(reply), write)
