"""The errors that failed requests over HTTP stand for."""

import re

import httpx2

from twinforce._transports.proxies import Route
from twinforce._transports.signal_handlers import exception_of_handler
from twinforce._transports.transport import (
    ANOTHER,
    GRPC_PORT,
    KEEP_ALIVE,
    NO_CERTIFICATE,
    NO_SUCH_HOST,
    NO_TLS,
    PROXY_REFUSES,
    TLS,
    UNTRUSTED,
    LostReplyError,
    deadline_exceeded,
    misdirected,
    unreachable,
    with_schemes,
)
from twinforce._transports.watch import LOST_REPLY
from twinforce_proto import OverloadedError, ServiceError, UnavailableError
from twinforce_proto.codec.problem import error_from_problem

# Seconds after which to try again if a proxy refuses requests.
_RETRY_AFTER = 0.5

# Statuses of proxies that do not reach the service: timeouts, bad gateways, closed connections.
_NOT_REACHED = {408, 499, 502, 503, 504, *range(520, 525), 530}
# Statuses of programs that know neither the path nor the method.
_UNKNOWN_PATH = {404, 405, 501}
_REFUSALS_OF_PROXIES = {400, 401, 403, 404, 405, 407}
# Texts of the resolvers, of TLS and of the HTTP parsers for an address that is wrong.
_WRONG = (
    ("illegal (request|status) line", GRPC_PORT),
    ("WRONG_VERSION_NUMBER|HTTP_REQUEST|RECORD_LAYER_FAILURE|PACKET_LENGTH_TOO_LONG", NO_TLS),
    ("CERTIFICATE_VERIFY_FAILED", UNTRUSTED),
    (
        "Name or service not known|No address associated|nodename nor servname|getaddrinfo failed",
        NO_SUCH_HOST,
    ),
)

# Texts of connections that a service ends because of the certificate of the client.
_TURNED_AWAY = "reset by peer|without sending a response|CERTIFICATE_REQUIRED|UNKNOWN_CA"


def reported_error(reply: httpx2.Response, route: Route) -> ServiceError:
    """Return the error that the service, or a proxy before it, answered with."""
    try:
        problem = reply.json()
    except ValueError:
        problem = None
    is_own = isinstance(problem, dict) and "detail" in problem
    answer = f"{reply.url} answered {reply.status_code} {reply.reason_phrase}"
    retry_after = _retry_after(reply)
    if is_own:
        return error_from_problem({"retry_after": retry_after} | problem, reply.status_code)
    if reply.status_code in _NOT_REACHED:
        return UnavailableError(f"cannot reach {route}: {answer}", retry_after=retry_after)
    if reply.status_code == 429:
        return OverloadedError(answer, retry_after=retry_after or _RETRY_AFTER)
    if reply.status_code in _UNKNOWN_PATH:
        return misdirected(route, answer, ANOTHER)
    if reply.status_code == 407:
        return misdirected(route, answer, PROXY_REFUSES)
    if reply.status_code == 400 and "HTTPS" in reply.text:
        return misdirected(route, answer, TLS)
    return error_from_problem({"detail": answer}, reply.status_code)


def service_error(error: httpx2.HTTPError, route: Route, timeout: float | None) -> ServiceError:
    """Return the `ServiceError` that a request without an answer stands for.

    If it stands for the exception of a signal handler, that is raised.
    """
    if (own := exception_of_handler(error)) is not None:
        raise own
    text = _text_of(error)
    connect = KEEP_ALIVE.connect_to(route.url)
    has_time = timeout is None or timeout > connect
    if isinstance(error, httpx2.ConnectTimeout) and has_time:
        return unreachable(route, f"no connection within {connect:g} s")
    if isinstance(error, httpx2.TimeoutException):
        return deadline_exceeded(route, timeout)
    for pattern, hint in _WRONG:
        if re.search(pattern, text):
            return misdirected(route, error, hint)
    if isinstance(error, httpx2.ProxyError):
        status = re.match(r"\d+", text)
        if status and int(status[0]) in _REFUSALS_OF_PROXIES:
            return misdirected(route, error, PROXY_REFUSES)
    elif not isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError):
        return ServiceError(f"the request to {route} failed: {text}")
    if not route.url.is_secure and re.search("reset by peer|without sending a response", text):
        text = f"{text} ({with_schemes(TLS, route)})"
    if route.url.is_secure and re.search(_TURNED_AWAY, text):
        text = f"{text} ({NO_CERTIFICATE})"
    if LOST_REPLY in text:
        return LostReplyError(f"cannot reach {route}: {text}")
    return unreachable(route, text)


def _retry_after(reply: httpx2.Response) -> float | None:
    seconds = reply.headers.get("retry-after", "")
    return float(seconds) if seconds.isdecimal() else None


def _text_of(error: BaseException) -> str:
    """Return the text of an error and of what caused it."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        if (text := str(cause) or type(cause).__name__) not in texts:
            texts.append(text)
        cause = cause.__cause__ or cause.__context__
    return ": ".join(texts)
