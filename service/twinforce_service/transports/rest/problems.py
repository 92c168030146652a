"""Errors over HTTP, as RFC 9457 problem details."""

import math
from http import HTTPStatus
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from twinforce_proto import ServiceError, UnauthenticatedError
from twinforce_proto.codec.problem import error_to_problem
from twinforce_proto.errors import MAX_MESSAGE_BYTES, clipped
from twinforce_proto.headers import PROBLEM

# Paths of the Open Inference Protocol, whose clients look for the text of an error in a member of
# this name.
_OPEN_INFERENCE = "/v2"


class UnsupportedMediaTypeError(Exception):
    """The body has a media type that no path reads; the message says which are read."""


def problem_of(error: ServiceError, path: str = "") -> Response:
    """Return the reply that reports a `ServiceError` to a request for a path."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    return _response(error_to_problem(error), error.http_status, headers, path)


def plain_problem(
    status: int, detail: str, headers: dict[str, str] | None = None, path: str = ""
) -> Response:
    """Return the reply that reports an error which has only an HTTP status."""
    problem = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": clipped(detail, MAX_MESSAGE_BYTES),
    }
    return _response(problem, status, headers or {}, path)


async def report_service_error(request: Request, error: Exception) -> Response:
    """Answer a request that ended with a `ServiceError`."""
    assert isinstance(error, ServiceError)
    return problem_of(error, request.scope["path"])


async def report_media_type(request: Request, error: Exception) -> Response:
    """Answer a request whose body has an unsupported media type."""
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    return plain_problem(status, str(error), path=request.scope["path"])


async def report_http_error(request: Request, error: Exception) -> Response:
    """Answer a request with an unknown path or method."""
    status = getattr(error, "status_code", HTTPStatus.INTERNAL_SERVER_ERROR)
    detail = f"{request.method} {request.scope['path']}: {HTTPStatus(status).phrase.lower()}"
    headers = dict(getattr(error, "headers", None) or {})
    return plain_problem(status, detail, headers, request.scope["path"])


def _response(problem: dict[str, Any], status: int, headers: dict[str, str], path: str) -> Response:
    if path.startswith(_OPEN_INFERENCE):
        problem = problem | {"error": problem["detail"]}
    content = orjson.dumps(problem)
    return Response(content, status, headers, media_type=PROBLEM)
