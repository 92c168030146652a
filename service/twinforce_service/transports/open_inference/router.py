"""The REST paths of the protocol."""

from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import APIRouter
from fastapi import Request as HTTPRequest
from fastapi.responses import Response

from twinforce_proto import PredictRequest, UnavailableError
from twinforce_proto.headers import JSON, URGENCY
from twinforce_service.calls.bounds import CallLimits
from twinforce_service.calls.conversion import BYTES_PER_SYSTEM, Converter
from twinforce_service.calls.descriptions import Calls
from twinforce_service.calls.intake import Intake
from twinforce_service.calls.outcomes import Outcomes
from twinforce_service.context import permission, set_urgency, urgency
from twinforce_service.engine.engine import Engine
from twinforce_service.transports.open_inference import openapi
from twinforce_service.transports.open_inference.descriptions import (
    check_length,
    describe_config,
    describe_model,
    describe_server,
    find_model,
    is_model_ready,
    list_models,
)
from twinforce_service.transports.open_inference.infer_reply import reply_to
from twinforce_service.transports.open_inference.infer_request import InferRequest
from twinforce_service.transports.open_inference.rest_bodies import (
    BINARY,
    HEADER_LENGTH,
    is_only_ready,
    read_infer,
    write_infer,
)
from twinforce_service.transports.rest.requests import (
    body_type,
    read_body,
    timeout_of,
    while_connected,
)


def open_inference_router(
    engine: Engine,
    calls: Calls,
    outcomes: Outcomes,
    intake: Intake,
    limits: CallLimits,
    converter: Converter,
) -> APIRouter:
    """Return the router of all paths of the protocol.

    Each path of a model exists with and without a version; only the latter is described.
    """
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])
    paths = _Paths(engine, intake, limits)
    inference = _Inference(engine, calls, outcomes, limits, converter)
    router.add_api_route("/health/live", paths.live, responses=openapi.LIVE)
    router.add_api_route("/health/ready", paths.ready, responses=openapi.READY)
    router.add_api_route("", paths.server, responses=openapi.SERVER)
    router.add_api_route("/repository/index", paths.index, methods=["POST"], **openapi.INDEX)
    for prefix in ("/models/{model}", "/models/{model}/versions/{version}"):
        add = partial(router.add_api_route, include_in_schema="version" not in prefix)
        add(f"{prefix}/infer", inference.infer, methods=["POST"], **openapi.INFER)
        add(prefix, paths.model, responses=openapi.MODEL)
        add(f"{prefix}/ready", paths.model_ready, responses=openapi.MODEL_READY)
        add(f"{prefix}/config", paths.config, responses=openapi.CONFIG)
    return router


class _Paths:
    """The paths that describe the server and its models."""

    def __init__(self, engine: Engine, intake: Intake, limits: CallLimits) -> None:
        self._engine = engine
        self._intake = intake
        self._limits = limits

    async def live(self) -> Response:
        """Report whether the service works, or will work once it has started."""
        if not self._engine.is_alive:
            raise UnavailableError("the engine has failed; restart the service")
        return _json({"live": True})

    async def ready(self) -> Response:
        """Report whether requests are accepted."""
        if self._intake.is_closing or not self._engine.is_ready:
            raise UnavailableError(
                "the service is starting, shutting down or replacing its engine", retry_after=1.0
            )
        return _json({"ready": True})

    async def server(self) -> Response:
        """Describe the server, and the extensions of the protocol that it knows."""
        return _json(describe_server())

    async def index(self, http: HTTPRequest) -> Response:
        """List the models that the caller may use."""
        body = await read_body(http, self._limits.max_bytes)
        check_length(len(body))
        return _json(list_models(self._engine, only_ready=is_only_ready(body)))

    async def model(self, http: HTTPRequest, model: str) -> Response:
        """Describe the tensors of a model."""
        return _json(describe_model(find_model(self._engine, model, _version_of(http))))

    async def model_ready(self, http: HTTPRequest, model: str) -> Response:
        """Report whether requests for a model are accepted."""
        info = find_model(self._engine, model, _version_of(http))
        if self._intake.is_closing or not is_model_ready(self._engine, info):
            raise UnavailableError(f"the model {model!r} is not ready", retry_after=1.0)
        return _json({"name": model, "ready": True})

    async def config(self, http: HTTPRequest, model: str) -> Response:
        """Describe a model in the form of Triton's configurations."""
        return _json(describe_config(find_model(self._engine, model, _version_of(http))))


class _Inference:
    """The path that evaluates systems."""

    def __init__(
        self,
        engine: Engine,
        calls: Calls,
        outcomes: Outcomes,
        limits: CallLimits,
        converter: Converter,
    ) -> None:
        self._engine = engine
        self._call = calls.predict
        self._outcomes = outcomes
        self._limits = limits
        self._converter = converter

    async def infer(self, http: HTTPRequest, model: str) -> Response:
        """Evaluate the systems that tensors describe."""
        body_type(http, (JSON, BINARY))
        with self._outcomes.of("rest_v2", self._call.scope, model):
            permission.get().require(self._call.scope, model)
            body = await read_body(http, self._limits.max_bytes)
            timeout = timeout_of(http)
            set_urgency(http.headers.get(URGENCY))
            infer, request = await self._read(http, body, model)
            timeout = infer.options.timeout_within(timeout)
            predictions = await while_connected(http, self._call.answer(request, timeout))
            write = partial(_written, infer, request, predictions)
            content, size = await self._converter.convert(self._call.n_bytes(predictions), write)
        headers = {} if size is None else {HEADER_LENGTH: str(size)}
        media_type = JSON if size is None else BINARY
        return Response(content, HTTPStatus.OK, headers, media_type=media_type)

    async def _read(
        self, http: HTTPRequest, body: bytes, model: str
    ) -> tuple[InferRequest, PredictRequest]:
        """Return the request in a body, in the words of the protocol and of the service."""
        info = find_model(self._engine, model, _version_of(http))
        parse = partial(read_infer, body, http.headers.get(HEADER_LENGTH), self._limits)
        infer = await self._converter.convert(len(body), parse)
        if infer.options.urgency is not None:
            urgency.set(infer.options.urgency)
        convert = partial(infer.for_model, info, self._limits)
        request = await self._converter.convert(BYTES_PER_SYSTEM * infer.n_systems, convert)
        self._call.check(request)
        return infer, request


def _version_of(http: HTTPRequest) -> str:
    """Return the version in the path of a request, or an empty text if there is none.

    If it were an argument of the handlers, paths without a version would take it from the query.
    """
    return str(http.path_params.get("version", ""))


def _written(
    infer: InferRequest, request: PredictRequest, predictions: Any
) -> tuple[bytes, int | None]:
    return write_infer(infer, reply_to(infer, request, predictions))


def _json(values: object) -> Response:
    return Response(orjson.dumps(values), HTTPStatus.OK, media_type=JSON)
