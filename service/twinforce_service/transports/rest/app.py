"""The REST application: calls as JSON or as the protobuf messages of the gRPC API."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI
from fastapi import Request as HTTPRequest
from fastapi.responses import Response
from google.protobuf.message import Message
from starlette.exceptions import HTTPException

from twinforce_proto import ModelInfo, ServiceError, UnavailableError
from twinforce_proto.codec.messages import model_info_to_proto
from twinforce_proto.codec.status import status_to_proto
from twinforce_proto.headers import JSON, PROTOBUF
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_service.callers.allowances import Allowances
from twinforce_service.callers.limits import UNLIMITED
from twinforce_service.callers.permission import METRICS
from twinforce_service.calls.bounds import CallLimits
from twinforce_service.calls.conversion import Converter
from twinforce_service.calls.descriptions import Calls
from twinforce_service.calls.intake import Intake
from twinforce_service.calls.outcomes import Outcomes
from twinforce_service.calls.status import StatusReader
from twinforce_service.context import permission
from twinforce_service.engine.engine import Engine
from twinforce_service.metrics import Metrics
from twinforce_service.transports.key_check import KeyCheck
from twinforce_service.transports.open_inference.openapi import SCHEMAS as OPEN_INFERENCE_SCHEMAS
from twinforce_service.transports.open_inference.router import open_inference_router
from twinforce_service.transports.rest import openapi, problems, texts
from twinforce_service.transports.rest.documentation import add_docs_page
from twinforce_service.transports.rest.gate import Gate
from twinforce_service.transports.rest.page.live import LiveState
from twinforce_service.transports.rest.page.router import page_router
from twinforce_service.transports.rest.paths import call_router
from twinforce_service.transports.rest.requests import OpenRequests, RequestScope, reply_type
from twinforce_service.version import service_version

_EXCEPTION_HANDLERS: Mapping[Any, Any] = {
    ServiceError: problems.report_service_error,
    problems.UnsupportedMediaTypeError: problems.report_media_type,
    HTTPException: problems.report_http_error,
}


def create_app(
    engine: Engine,
    calls: Calls,
    metrics: Metrics,
    outcomes: Outcomes,
    intake: Intake,
    limits: CallLimits,
    converter: Converter,
    allowances: Allowances,
    key_check: KeyCheck | None = None,
    trusted_hosts: frozenset[str] | None = None,
    *,
    has_metrics: bool = True,
    has_page: bool = False,
) -> FastAPI:
    """Return the ASGI application.

    Args:
        engine: Evaluates systems and declares the models.
        calls: Calls to serve.
        metrics: Metrics to show.
        outcomes: Outcomes to note.
        intake: Intake of the calls.
        limits: Limits of a call.
        converter: Converts what is large.
        allowances: What is left of the limits of each caller, to be told in headers.
        key_check: Check of keys; None means that no key is needed.
        trusted_hosts: Names that the header Host may have; None means any.
        has_metrics: True to show the metrics.
        has_page: True to show a page to browsers.
    """
    app = FastAPI(
        title="TwinForce",
        version=service_version(),
        description=texts.DESCRIPTION,
        license_info=texts.LICENSE,
        contact=texts.CONTACT,
        servers=texts.SERVERS,
        openapi_tags=texts.TAGS,
        docs_url=None,
        redoc_url=None,
        exception_handlers={**_EXCEPTION_HANDLERS},
    )
    # Routes are matched in this order, so the most frequent come first.
    app.include_router(call_router(engine, calls, outcomes, limits, converter))
    app.include_router(open_inference_router(engine, calls, outcomes, intake, limits, converter))
    app.include_router(_models(engine))
    app.include_router(_health(engine, intake))
    app.include_router(_status(calls.status))
    if has_metrics:
        app.include_router(_metrics(metrics))
    if has_page:
        live = LiveState(calls.status, metrics, intake)
        app.include_router(page_router(live))
    open_requests = OpenRequests()
    app.include_router(_requests(open_requests))
    add_docs_page(app)
    app.add_middleware(Gate, key_check=key_check, trusted_hosts=trusted_hosts, has_page=has_page)
    app.add_middleware(
        RequestScope, intake=intake, open_requests=open_requests, allowances=allowances
    )
    openapi.complete(app, OPEN_INFERENCE_SCHEMAS, needs_key=key_check is not None)
    return app


def create_monitoring_app(
    engine: Engine, metrics: Metrics, intake: Intake, trusted_hosts: frozenset[str] | None
) -> FastAPI:
    """Return the ASGI application that shows health and metrics to those who monitor the service.

    Args:
        engine: Evaluates systems.
        metrics: Metrics to show.
        intake: Intake of the calls.
        trusted_hosts: Names that the header Host may have; None means any.
    """
    app = FastAPI(title="TwinForce", openapi_url=None, exception_handlers={**_EXCEPTION_HANDLERS})
    app.include_router(_health(engine, intake))
    app.include_router(_metrics(metrics))
    app.add_middleware(Gate, trusted_hosts=trusted_hosts)
    app.add_middleware(
        RequestScope,
        intake=intake,
        open_requests=OpenRequests(),
        allowances=Allowances(UNLIMITED),
    )
    return app


def _health(engine: Engine, intake: Intake) -> APIRouter:
    router = APIRouter(tags=["service"])

    @router.get("/health/live", responses=openapi.LIVE)
    async def live() -> Response:
        """Report whether the service works, or will work once it has started."""
        if not engine.is_alive:
            raise UnavailableError("the engine has failed; restart the service")
        return _json({"status": "live"})

    @router.get("/health/ready", responses=openapi.READY)
    async def ready() -> Response:
        """Report whether requests are accepted: all models were loaded and warmed up.

        Models whose engine is being restarted while others work are listed as unavailable.
        """
        if intake.is_closing or not engine.is_ready:
            raise UnavailableError(
                "the service is starting, shutting down or replacing its engine", retry_after=1.0
            )
        available = sorted(engine.available_models)
        missing = sorted({*engine.models} - {*available})
        found = {"status": "ready", "models": available}
        return _json(found | ({"unavailable": missing} if missing else {}))

    return router


def _status(status: StatusReader) -> APIRouter:
    router = APIRouter(tags=["service"])

    @router.get("/v1/status", responses=openapi.STATUS)
    async def show_status(request: HTTPRequest) -> Response:
        """Return the state of the service, also while it is not ready.

        Keys for metrics see what models have done and the usage of all callers, and others their
        own usage.
        """
        found = status.of_caller()
        return _reply(request, lambda: asdict(found), lambda: status_to_proto(found))

    return router


def _metrics(metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["service"])

    @router.get("/metrics", responses=openapi.METRICS, response_class=Response)
    async def show_metrics(request: HTTPRequest) -> Response:
        """Return the metrics in the text format of Prometheus, or in that of OpenMetrics."""
        permission.get().require(METRICS)
        content, media_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(content, headers={"content-type": media_type})

    return router


def _requests(open_requests: OpenRequests) -> APIRouter:
    router = APIRouter(tags=["service"])

    @router.get("/v1/requests/{watch_id}", responses=openapi.OPEN_REQUEST)
    async def show_request(watch_id: str) -> Response:
        """Report whether the request with this X-Watch-Id is being answered, and what was sent."""
        return _json(open_requests.state_of(watch_id))

    return router


def _models(engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("", responses=openapi.MODELS)
    async def list_models(request: HTTPRequest) -> Response:
        """Return the capabilities of each served model."""
        allows = permission.get().allows
        infos = [info for info in engine.models.values() if allows(info.name)]
        return _reply(
            request,
            lambda: {"models": [asdict(info) for info in infos]},
            lambda: pb.ListModelsReply(models=map(model_info_to_proto, infos)),
        )

    @router.get("/{model}", responses=openapi.MODEL)
    async def show_model(request: HTTPRequest, model: str) -> Response:
        """Return the capabilities of a model: outputs, elements, errors and its card."""
        permission.get().require_model(model)
        info: ModelInfo = engine.find(model)
        return _reply(request, lambda: asdict(info), lambda: model_info_to_proto(info))

    return router


def _reply(
    request: HTTPRequest, values: Callable[[], object], message: Callable[[], Message]
) -> Response:
    if reply_type(request) == PROTOBUF:
        return Response(message().SerializeToString(), media_type=PROTOBUF)
    return _json(values())


def _json(values: object) -> Response:
    return Response(orjson.dumps(values), HTTPStatus.OK, media_type=JSON)
