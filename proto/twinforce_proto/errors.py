"""Every error that the service reports, with its status code on each transport.

::

    ServiceError                     500  UNKNOWN              any error that the service reports
      InvalidRequestError            422  INVALID_ARGUMENT     malformed body, unknown output, ...
        ModelChangedError            422  FAILED_PRECONDITION  a run goes on with other weights
      InvalidSystemError             422  INVALID_ARGUMENT     a system in the request is malformed
        UnsupportedElementError      422  FAILED_PRECONDITION  the model does not know an element
      UnsupportedOutputError         422  FAILED_PRECONDITION  the model cannot give this output
      UnauthenticatedError           401  UNAUTHENTICATED      no key, or one that is not valid
      PermissionDeniedError          403  PERMISSION_DENIED    the key does not allow this
      UnknownModelError              404  NOT_FOUND            no model of this name is served
      SystemTooLargeError            413  OUT_OF_RANGE         larger than the largest batch
      OverloadedError                429  RESOURCE_EXHAUSTED   the queue is full, or a limit reached
      RequestCancelledError          499  CANCELLED            the caller has disconnected
      UnavailableError               503  UNAVAILABLE          starting, stopping, unreachable
      DeadlineExceededError          504  DEADLINE_EXCEEDED    its deadline has passed
      PredictionError                500  INTERNAL             the potential failed on this system
        NonFinitePredictionError     500  INTERNAL             it returned NaN or infinity
        FatalSystemError             500  INTERNAL             it ended the engine, again and again
      ModelLoadError                 500  INTERNAL             a model could not be loaded
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

# Longest message of an error, and longest text of a caller that a message repeats, in bytes.
MAX_MESSAGE_BYTES = 4000
_MAX_GOT_BYTES = 300
_ELLIPSIS = "…"


def clipped(text: str, max_bytes: int = _MAX_GOT_BYTES) -> str:
    """Return a text, or what fits of it into this many bytes of UTF-8, with an ellipsis."""
    if len(text) <= max_bytes // 4 or len(text.encode(errors="replace")) <= max_bytes:
        return text
    room = max_bytes - len(_ELLIPSIS.encode())
    return text[:max_bytes].encode(errors="replace")[:room].decode(errors="ignore") + _ELLIPSIS


def quoted(text: str) -> str:
    """Return a text of a caller in quotes, clipped."""
    return repr(clipped(text))


class ServiceError(Exception):
    """An error that the service reports to a caller.

    Attributes:
        message: Description of the error, without the index of the system; at most
            `MAX_MESSAGE_BYTES` long.
        system_index: Index, from 0, of the system that the error is about, if it is about one.
        field: Name of the field that the error is about, such as "positions", if it is about one.
        retry_after: Seconds after which the same request may succeed, if known.
    """

    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str = "",
        *,
        system_index: int | None = None,
        field: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        message = clipped(message, MAX_MESSAGE_BYTES)
        super().__init__(message)
        self.message = message
        self.system_index = system_index
        self.field = None if field is None else clipped(field)
        self.retry_after = retry_after

    @classmethod
    def expected(cls, field: str, expected: object, got: object) -> Self:
        """Return the error of a field that holds something other than expected.

        Args:
            field: Name of the field; the message begins with it.
            expected: Description of a valid value.
            got: Value or description of what came instead; long ones are clipped.
        """
        text = f"{clipped(field)}: expected {expected}, got {clipped(str(got))}"
        return cls(text, field=field)

    def __str__(self) -> str:
        if self.system_index is None:
            return self.message
        return f"systems[{self.system_index}]: {self.message}"

    def at(self, system_index: int | None) -> Self:
        """Return a copy of the error for the system at this index of the request.

        Args:
            system_index: None if the request is about a single system.
        """
        return type(self)(
            self.message,
            system_index=system_index,
            field=self.field,
            retry_after=self.retry_after,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the values from which `from_dict` makes the same error."""
        return {
            "type": type(self).__name__,
            "message": self.message,
            "system_index": self.system_index,
            "field": self.field,
            "retry_after": self.retry_after,
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "ServiceError":
        """Return the error that `to_dict` described, a `ServiceError` if its type is unknown."""
        return ERRORS.get(values.get("type", ""), ServiceError)(
            values.get("message") or "",
            system_index=values.get("system_index"),
            field=values.get("field"),
            retry_after=values.get("retry_after"),
        )


class InvalidRequestError(ServiceError):
    """The request is malformed, such as its body, its outputs or the order of a stream."""

    http_status = 422
    grpc_status = "INVALID_ARGUMENT"


class ModelChangedError(InvalidRequestError):
    """A run would continue with other weights than it began with, under the same model name or not.

    Calls that continue a run take `allow_model_change=True`, with which it goes on.
    """

    grpc_status = "FAILED_PRECONDITION"


class InvalidSystemError(ServiceError):
    """A system in the request is malformed."""

    http_status = 422
    grpc_status = "INVALID_ARGUMENT"


class UnsupportedElementError(InvalidSystemError):
    """The system contains an element that the model does not support."""

    grpc_status = "FAILED_PRECONDITION"


class UnsupportedOutputError(ServiceError):
    """The model cannot give this output, or not for this system."""

    http_status = 422
    grpc_status = "FAILED_PRECONDITION"


class UnauthenticatedError(ServiceError):
    """The request has no key, or one that is unknown, revoked or expired."""

    http_status = 401
    grpc_status = "UNAUTHENTICATED"


class PermissionDeniedError(ServiceError):
    """The key of the request does not allow this call or this model."""

    http_status = 403
    grpc_status = "PERMISSION_DENIED"


class UnknownModelError(ServiceError):
    """No model of this name is served; the message lists those that are."""

    http_status = 404
    grpc_status = "NOT_FOUND"


class SystemTooLargeError(ServiceError):
    """The system alone exceeds the limits of a batch."""

    http_status = 413
    grpc_status = "OUT_OF_RANGE"


class OverloadedError(ServiceError):
    """The queue is full; the same request may succeed after `retry_after` seconds."""

    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"


class RequestCancelledError(ServiceError):
    """The caller disconnected or canceled the request before it was answered."""

    http_status = 499
    grpc_status = "CANCELLED"


class UnavailableError(ServiceError):
    """The service is starting, is shutting down or cannot be reached."""

    http_status = 503
    grpc_status = "UNAVAILABLE"


class DeadlineExceededError(ServiceError):
    """The request was not answered before its deadline."""

    http_status = 504
    grpc_status = "DEADLINE_EXCEEDED"


class PredictionError(ServiceError):
    """The potential failed while evaluating this system."""

    http_status = 500
    grpc_status = "INTERNAL"


class NonFinitePredictionError(PredictionError):
    """The potential returned NaN or infinity for this system."""


class FatalSystemError(PredictionError):
    """The engine exited or hung each time that it evaluated this; it is refused for a while."""


class ModelLoadError(ServiceError):
    """A model could not be loaded at start-up."""

    http_status = 500
    grpc_status = "INTERNAL"


# Most general first, so that `error_of_http_status` finds the general error of a status.
ERRORS: Mapping[str, type[ServiceError]] = {
    error.__name__: error
    for error in (
        ServiceError,
        InvalidRequestError,
        InvalidSystemError,
        UnsupportedOutputError,
        ModelChangedError,
        UnsupportedElementError,
        UnauthenticatedError,
        PermissionDeniedError,
        UnknownModelError,
        SystemTooLargeError,
        OverloadedError,
        RequestCancelledError,
        UnavailableError,
        DeadlineExceededError,
        PredictionError,
        NonFinitePredictionError,
        FatalSystemError,
        ModelLoadError,
    )
}


def error_of_http_status(status: int) -> type[ServiceError]:
    """Return the most general error with this status, for a reply that names no error."""
    return next((kind for kind in ERRORS.values() if kind.http_status == status), ServiceError)
