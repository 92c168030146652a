"""Everything that goes wrong over HTTP, as RFC 9457 problem details."""

import math
from http import HTTPStatus
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from twinforce_proto import ServiceError
from twinforce_proto.codec.problem import error_to_problem
from twinforce_proto.headers import PROBLEM


class UnsupportedMediaTypeError(Exception):
    """A body in a form that no path reads; says which forms are read."""


def problem_of(error: ServiceError) -> Response:
    """Return the reply that reports an error of the tree."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    return _response(error_to_problem(error), error.http_status, headers)


def plain_problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """Return the reply that reports what has no meaning beyond its HTTP status."""
    problem = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return _response(problem, status, headers or {})


async def report_service_error(_: Request, error: Exception) -> Response:
    """Answer a request that ended with an error of the tree."""
    assert isinstance(error, ServiceError)
    return problem_of(error)


async def report_media_type(_: Request, error: Exception) -> Response:
    """Answer a request whose body cannot be read."""
    return plain_problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, str(error))


async def report_http_error(request: Request, error: Exception) -> Response:
    """Answer a request to a path, or with a method, that there is not."""
    status = getattr(error, "status_code", HTTPStatus.INTERNAL_SERVER_ERROR)
    detail = f"{request.method} {request.url.path}: {HTTPStatus(status).phrase.lower()}"
    return plain_problem(status, detail, dict(getattr(error, "headers", None) or {}))


def _response(problem: dict[str, Any], status: int, headers: dict[str, str]) -> Response:
    content = orjson.dumps(problem)
    return Response(content, status, headers, media_type=PROBLEM)
