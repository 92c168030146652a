"""The errors that failed calls of gRPC stand for."""

import re
from typing import Any

from twinforce._transports.grpc_loading import grpc
from twinforce._transports.proxies import Route
from twinforce._transports.transport import (
    ANOTHER,
    HTTP_PORT,
    NO_CERTIFICATE,
    NO_SUCH_HOST,
    NO_TLS,
    PROXY_REFUSES,
    TLS,
    UNTRUSTED,
    MissingMethodError,
    deadline_exceeded,
    misdirected,
    unreachable,
    with_schemes,
)
from twinforce_proto import (
    OverloadedError,
    PermissionDeniedError,
    RequestCancelledError,
    ServiceError,
    SystemTooLargeError,
    UnauthenticatedError,
)
from twinforce_proto.codec.messages import ERROR_METADATA_KEY, error_from_proto
from twinforce_proto.v1 import inference_pb2 as pb

# Seconds after which to try again if the transport itself refuses calls.
_RETRY_AFTER = 0.5

_OWN_CANCELLATION = re.compile("Locally cancel|Channel closed")
# Connections and streams that a server or a proxy broke off, under statuses other than
# UNAVAILABLE.
_BROKEN_OFF = re.compile("RST_STREAM|Stream removed|GOAWAY|http2 header with status: (408|499|5..)")
# Texts of gRPC and of its TLS library for an address that is wrong.
_WRONG = (
    ("http1.x server|Failed parsing HTTP/2|Expected SETTINGS frame", HTTP_PORT),
    ("WRONG_VERSION_NUMBER|HTTP_REQUEST|HTTPS_PROXY_REQUEST", NO_TLS),
    ("CERTIFICATE_VERIFY_FAILED|(Host|Peer) ?name .*(failed|not in)", UNTRUSTED),
    ("Domain name not found|answer with no data", NO_SUCH_HOST),
    ("HTTP proxy returned response code 40[0-57]", PROXY_REFUSES),
)
# Details by which the servers of gRPC for Python refuse a method that they do not have.
_NO_METHOD = "Method not found!"
# Statuses by which a proxy refuses a call for want of a key.
_REFUSALS: dict[grpc.StatusCode, type[ServiceError]] = {
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
}
# Texts of connections that a service ends because of the certificate of the client.
_TURNED_AWAY = re.compile("reset by peer|Socket closed|CERTIFICATE_REQUIRED|UNKNOWN_CA")
_CLOSED_AT_ONCE = re.compile("failed to connect.*(reset by peer|Socket closed|closed connection)")


def service_error(error: Any, route: Route, timeout: float | None) -> ServiceError:
    """Return the `ServiceError` that a failed call stands for.

    The service sends its error in the metadata; without that, the status comes from gRPC itself
    or from a proxy.
    """
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_METADATA_KEY:
            return error_from_proto(pb.Error.FromString(value))
    return _error_of_status(error.code(), error.details() or "", route, timeout)


def _error_of_status(
    status: grpc.StatusCode, details: str, route: Route, timeout: float | None
) -> ServiceError:
    answer = f"{route} answered {status.name}: {details}"
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return deadline_exceeded(route, timeout)
    if status is grpc.StatusCode.CANCELLED and _OWN_CANCELLATION.search(details):
        return RequestCancelledError(f"the call of {route} was canceled: {details}")
    if status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return _connection_error(details, route)
    if status is grpc.StatusCode.UNIMPLEMENTED:
        error = misdirected(route, details, ANOTHER)
        return MissingMethodError(str(error)) if details == _NO_METHOD else error
    if _BROKEN_OFF.search(details):
        return unreachable(route, details)
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if "larger than max" in details:
            return SystemTooLargeError(answer)
        if "metadata" not in details:
            return OverloadedError(answer, retry_after=_RETRY_AFTER)
    return _REFUSALS.get(status, ServiceError)(answer)


def _connection_error(details: str, route: Route) -> ServiceError:
    for pattern, hint in _WRONG:
        if re.search(pattern, details):
            return misdirected(route, details, hint)
    if not route.url.is_secure and _CLOSED_AT_ONCE.search(details):
        details = f"{details} ({with_schemes(TLS, route)})"
    if route.url.is_secure and _TURNED_AWAY.search(details):
        details = f"{details} ({NO_CERTIFICATE})"
    return unreachable(route, details)
