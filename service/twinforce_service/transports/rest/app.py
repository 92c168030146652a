"""The engine over HTTP: JSON, or the protobuf messages of the gRPC API, on the same paths."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from http import HTTPStatus

import orjson
from fastapi import APIRouter, FastAPI
from fastapi import Request as HTTPRequest
from fastapi.responses import Response
from google.protobuf.message import Message
from starlette.exceptions import HTTPException

from twinforce_proto import ModelInfo, PredictRequest, ServiceError, UnavailableError
from twinforce_proto.codec.messages import model_info_to_proto
from twinforce_proto.headers import JSON, PROTOBUF, URGENCY
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_service.calls.conversion import convert, nonconservativity_bytes, reply_bytes
from twinforce_service.calls.dynamics import Dynamics
from twinforce_service.calls.nonconservativity import Jacobians
from twinforce_service.calls.outcomes import counted
from twinforce_service.calls.predictions import Call
from twinforce_service.context import set_urgency
from twinforce_service.engine.engine import Engine
from twinforce_service.metrics import CONTENT_TYPE, Metrics
from twinforce_service.transports.rest import bodies, openapi, problems
from twinforce_service.transports.rest.dynamics import dynamics_paths
from twinforce_service.transports.rest.requests import (
    RequestScope,
    body_type,
    read_body,
    reply_type,
    timeout_of,
    wait_until_gone,
    while_there,
)
from twinforce_service.version import service_version

# What each path gives; None: what the body says.
_PATHS: dict[str, frozenset[str] | None] = {
    "predict": None,
    "energy": frozenset({"energy"}),
    "conservative-forces": frozenset({"energy", "conservative_forces"}),
    "direct-forces": frozenset({"energy", "direct_forces"}),
}
_NONCONSERVATIVITY_READERS = {
    JSON: bodies.read_nonconservativity_json,
    PROTOBUF: bodies.read_nonconservativity_protobuf,
}
_NONCONSERVATIVITY_WRITERS = {
    JSON: bodies.write_nonconservativity_json,
    PROTOBUF: bodies.write_nonconservativity_protobuf,
}
_READERS = {JSON: bodies.read_json, PROTOBUF: bodies.read_protobuf}
_WRITERS = {JSON: bodies.write_json, PROTOBUF: bodies.write_protobuf}


def create_app(
    engine: Engine,
    jacobians: Jacobians,
    dynamics: Dynamics,
    metrics: Metrics,
    max_body_bytes: int,
) -> FastAPI:
    """Return the ASGI application that serves `engine`."""
    app = FastAPI(
        title="TwinForce",
        version=service_version(),
        description=openapi.DESCRIPTION,
        exception_handlers={
            ServiceError: problems.report_service_error,
            problems.UnsupportedMediaTypeError: problems.report_media_type,
            HTTPException: problems.report_http_error,
        },
    )
    # Paths are tried in this order, so those that are asked most come first.
    app.include_router(_predictions(engine, metrics, max_body_bytes))
    app.include_router(_nonconservativity(engine, jacobians, metrics, max_body_bytes))
    app.include_router(dynamics_paths(engine, dynamics, metrics, max_body_bytes))
    app.include_router(_models(engine))
    app.include_router(_health(engine, metrics))
    app.add_middleware(RequestScope)
    openapi.complete(app)
    return app


def _health(engine: Engine, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["service"])

    @router.get("/health/live", responses=openapi.LIVE)
    async def live() -> Response:
        """Tell whether the service works, or will once it has started."""
        if not engine.is_alive:
            raise UnavailableError("the engine has died; the service must be started again")
        return _json({"status": "live"})

    @router.get("/health/ready", responses=openapi.READY)
    async def ready() -> Response:
        """Tell whether requests are accepted: all models are loaded and warmed up."""
        if not engine.is_ready:
            raise UnavailableError("the service is starting or shutting down", retry_after=1.0)
        return _json({"status": "ready", "models": sorted(engine.models)})

    @router.get("/metrics", responses=openapi.METRICS)
    async def show_metrics() -> Response:
        """Show the metrics, in the text format of Prometheus."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    return router


def _models(engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("", responses=openapi.MODELS)
    async def list_models(request: HTTPRequest) -> Response:
        """Show what each served model declares."""
        infos = list(engine.models.values())
        return _reply(
            request,
            lambda: {"models": [asdict(info) for info in infos]},
            lambda: pb.ListModelsReply(models=map(model_info_to_proto, infos)),
        )

    @router.get("/{model}", responses=openapi.MODEL)
    async def show_model(request: HTTPRequest, model: str) -> Response:
        """Show what a model declares: outputs, elements, errors, its card."""
        info: ModelInfo = engine.find(model)
        return _reply(request, lambda: asdict(info), lambda: model_info_to_proto(info))

    return router


def _predictions(engine: Engine, metrics: Metrics, max_body_bytes: int) -> APIRouter:
    router = APIRouter(prefix="/v1/models/{model}", tags=["predictions"])

    def add(path: str, fixed: frozenset[str] | None) -> None:
        async def answer(request: HTTPRequest, model: str) -> Response:
            read = _READERS[body_type(request)]
            with counted(metrics, "rest", engine, model):
                body = await read_body(request, max_body_bytes)
                timeout = timeout_of(request)
                set_urgency(request.headers.get(URGENCY))
                engine.find(model)
                wanted = await convert(len(body), partial(read, body, model, fixed))
                return await _predict(engine, request, wanted, timeout)

        docs = openapi.of_path(path)
        router.add_api_route(f"/{path}", answer, methods=["POST"], **docs)

    for path, fixed in _PATHS.items():
        add(path, fixed)
    return router


def _nonconservativity(
    engine: Engine, jacobians: Jacobians, metrics: Metrics, max_body_bytes: int
) -> APIRouter:
    router = APIRouter(prefix="/v1/models/{model}", tags=["predictions"])

    @router.post("/nonconservativity", **openapi.NONCONSERVATIVITY)
    async def nonconservativity(request: HTTPRequest, model: str) -> Response:
        read = _NONCONSERVATIVITY_READERS[body_type(request)]
        with counted(metrics, "rest", engine, model):
            body = await read_body(request, max_body_bytes)
            timeout = timeout_of(request)
            set_urgency(request.headers.get(URGENCY))
            engine.find(model)
            wanted = await convert(len(body), partial(read, body, model))
            found = await while_there(request, jacobians.nonconservativity(wanted, timeout))
            media_type = reply_type(request)
            write = partial(_NONCONSERVATIVITY_WRITERS[media_type], model, found)
            content = await convert(nonconservativity_bytes(found), write)
            return Response(content, media_type=media_type)

    return router


async def _predict(
    engine: Engine, request: HTTPRequest, wanted: PredictRequest, timeout: float | None
) -> Response:
    """Evaluate what is wanted while the caller is there to wait for it."""
    call = Call(engine, wanted, timeout)
    watch = asyncio.create_task(wait_until_gone(request, call.cancel))
    try:
        predictions = await call.predictions()
    finally:
        watch.cancel()
    media_type = reply_type(request)
    n_bytes = reply_bytes(predictions)
    content = await convert(n_bytes, partial(_WRITERS[media_type], wanted, predictions))
    return Response(content, media_type=media_type)


def _reply(
    request: HTTPRequest, values: Callable[[], object], message: Callable[[], Message]
) -> Response:
    if reply_type(request) == PROTOBUF:
        return Response(message().SerializeToString(), media_type=PROTOBUF)
    return _json(values())


def _json(values: object) -> Response:
    return Response(orjson.dumps(values), HTTPStatus.OK, media_type=JSON)
