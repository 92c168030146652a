"""The spans of calls, for programs that use OpenTelemetry.

Nothing is imported: a program that records spans has imported the package itself. All others pay
for looking that up.
"""

import sys
from functools import lru_cache
from typing import Any, Protocol, Self

from twinforce_proto import ServiceError
from twinforce_proto.headers import TRACE_PARENT, TRACE_STATE

_MODULE = "opentelemetry.trace"
_NONE: dict[str, str] = {}


class SpanOfCall(Protocol):
    """A context manager of a call, which is a span if the program records spans.

    Attributes:
        headers: Headers, or metadata, that tell the service of it.
    """

    headers: dict[str, str]

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None: ...

    def note_failure(self, error: ServiceError) -> None:
        """Note that an attempt has failed and the next one follows."""


class _NoSpan:
    """The `SpanOfCall` of programs without OpenTelemetry."""

    headers = _NONE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        return

    def note_failure(self, error: ServiceError) -> None:
        """Do nothing."""


class _ClientSpan:
    """The span of a call inside the current span of the program.

    Args:
        api: The module `opentelemetry.trace`.
        method: Name of the call.
    """

    def __init__(self, api: Any, method: str) -> None:
        self._api = api
        tracer = _tracer(api.get_tracer_provider())
        self._span = tracer.start_span(f"twinforce.Client {method}", kind=api.SpanKind.CLIENT)
        self.headers = _headers_of(self._span.get_span_context())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            name = type(error).__name__
            self._span.set_attribute("error.type", name)
            self._span.set_status(self._api.Status(self._api.StatusCode.ERROR, name))
        self._span.end()

    def note_failure(self, error: ServiceError) -> None:
        """Note that an attempt has failed and the next one follows."""
        self._span.add_event("attempt failed", {"error.type": type(error).__name__})


_NO_SPAN = _NoSpan()


def span_of(method: str) -> SpanOfCall:
    """Return a context manager of a call, which ends the span of it.

    Args:
        method: Name of the call.
    """
    api = _imported()
    return _NO_SPAN if api is None else _ClientSpan(api, method)


def current_headers() -> dict[str, str]:
    """Return the headers that tell the service of the current span of the program, if any."""
    api = _imported()
    return _NONE if api is None else _headers_of(api.get_current_span().get_span_context())


def _imported() -> Any:
    """Return the module `opentelemetry.trace`, or None until it has been imported completely."""
    api = sys.modules.get(_MODULE)
    if getattr(getattr(api, "__spec__", None), "_initializing", False):
        return None
    return api


@lru_cache(maxsize=4)
def _tracer(provider: Any) -> Any:
    return provider.get_tracer("twinforce")


def _headers_of(context: Any) -> dict[str, str]:
    """Return the headers of W3C Trace Context for a span."""
    if not context.is_valid:
        return _NONE
    identity = f"{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    headers = {TRACE_PARENT: f"00-{identity}"}
    if state := context.trace_state.to_header():
        headers[TRACE_STATE] = state
    return headers
