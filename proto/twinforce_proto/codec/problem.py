"""Conversion of errors to and from RFC 9457 problem details, `application/problem+json`."""

import inspect
from collections.abc import Mapping
from typing import Any

from twinforce_proto.errors import ServiceError, error_of_http_status

_URN = "urn:twinforce:error:"


def error_to_problem(error: ServiceError) -> dict[str, Any]:
    """Encode an error as problem details; members without a value are left out."""
    members = {
        "type": f"{_URN}{type(error).__name__}",
        "title": (inspect.getdoc(type(error)) or "").partition("\n")[0],
        "status": error.http_status,
        "detail": str(error),
        "system_index": error.system_index,
        "field": error.field,
        "retry_after": error.retry_after,
    }
    return {name: value for name, value in members.items() if value is not None}


def error_from_problem(problem: Mapping[str, Any], http_status: int) -> ServiceError:
    """Decode problem details; an unknown type becomes the general error of the status."""
    kind = str(problem.get("type", ""))
    detail = str(problem.get("detail", ""))
    system_index = problem.get("system_index")
    return ServiceError.from_dict(
        {
            "type": kind.removeprefix(_URN)
            if kind.startswith(_URN)
            else error_of_http_status(http_status).__name__,
            "message": detail.removeprefix(f"systems[{system_index}]: "),
            "system_index": system_index,
            "field": problem.get("field"),
            "retry_after": problem.get("retry_after"),
        }
    )
