"""Everything that can go wrong, and its code on each transport.

* ServiceError                     500  UNKNOWN              anything the service reports
  - InvalidRequestError            422  INVALID_ARGUMENT     malformed body, unknown output, ...
  - InvalidSystemError             422  INVALID_ARGUMENT     the caller's system is malformed
    + UnsupportedElementError      422  FAILED_PRECONDITION  the model does not know an element
  - UnsupportedOutputError         422  FAILED_PRECONDITION  the model cannot give this output
  - UnknownModelError              404  NOT_FOUND            no model of this name is served
  - SystemTooLargeError            413  OUT_OF_RANGE         more than one batch can hold
  - OverloadedError                429  RESOURCE_EXHAUSTED   the queue is full; retry later
  - RequestCancelledError          499  CANCELLED            the caller has gone away
  - UnavailableError               503  UNAVAILABLE          starting, stopping, unreachable
  - DeadlineExceededError          504  DEADLINE_EXCEEDED    nobody waits for it any more
  - PredictionError                500  INTERNAL             the potential failed on this system
    + NonFinitePredictionError     500  INTERNAL             it gave NaN or infinity
  - ModelLoadError                 500  INTERNAL             a model could not be loaded
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self


class ServiceError(Exception):
    """Anything the service reports to a caller.

    Attributes:
        message: What was expected and what came, without the place in the request.
        system_index: Which system of the request is meant, counted from 0.
        field: Which field is meant, such as "positions".
        retry_after: Seconds after which the same request may succeed.
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
        super().__init__(message)
        self.message = message
        self.system_index = system_index
        self.field = field
        self.retry_after = retry_after

    @classmethod
    def expected(cls, field: str, expected: object, got: object) -> Self:
        """Return the error that a field of the request holds something else than expected.

        Args:
            field: Name of the field; the message begins with it.
            expected: Description of a valid value.
            got: Description of the value that came.
        """
        return cls(f"{field}: expected {expected}, got {got}", field=field)

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
        """Return what a caller needs to raise the same error; the inverse of `from_dict`."""
        return {
            "type": type(self).__name__,
            "message": self.message,
            "system_index": self.system_index,
            "field": self.field,
            "retry_after": self.retry_after,
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "ServiceError":
        """Return the error that `to_dict` described; of an unknown type, a plain `ServiceError`."""
        return ERRORS.get(values.get("type", ""), ServiceError)(
            values.get("message") or "",
            system_index=values.get("system_index"),
            field=values.get("field"),
            retry_after=values.get("retry_after"),
        )


class InvalidRequestError(ServiceError):
    """The request is malformed: its body, its outputs, the order of a stream."""

    http_status = 422
    grpc_status = "INVALID_ARGUMENT"


class InvalidSystemError(ServiceError):
    """The system cannot be evaluated as it was sent."""

    http_status = 422
    grpc_status = "INVALID_ARGUMENT"


class UnsupportedElementError(InvalidSystemError):
    """The system holds an element that the model was not made for."""

    grpc_status = "FAILED_PRECONDITION"


class UnsupportedOutputError(ServiceError):
    """The model has no such output, or not for this system; the message says what it has."""

    http_status = 422
    grpc_status = "FAILED_PRECONDITION"


class UnknownModelError(ServiceError):
    """No model of this name is served; the message says which are."""

    http_status = 404
    grpc_status = "NOT_FOUND"


class SystemTooLargeError(ServiceError):
    """The system alone is more than the largest batch."""

    http_status = 413
    grpc_status = "OUT_OF_RANGE"


class OverloadedError(ServiceError):
    """The queue is full; the same request may succeed after `retry_after` seconds."""

    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"


class RequestCancelledError(ServiceError):
    """The caller went away before its prediction was made."""

    http_status = 499
    grpc_status = "CANCELLED"


class UnavailableError(ServiceError):
    """The service is starting, is shutting down or cannot be reached."""

    http_status = 503
    grpc_status = "UNAVAILABLE"


class DeadlineExceededError(ServiceError):
    """The prediction was not made in the time the caller was ready to wait."""

    http_status = 504
    grpc_status = "DEADLINE_EXCEEDED"


class PredictionError(ServiceError):
    """The potential failed while evaluating this system."""

    http_status = 500
    grpc_status = "INTERNAL"


class NonFinitePredictionError(PredictionError):
    """The potential gave NaN or infinity for this system."""


class ModelLoadError(ServiceError):
    """A model could not be loaded at start-up."""

    http_status = 500
    grpc_status = "INTERNAL"


# In the order in which `error_of_http_status` prefers them.
ERRORS: Mapping[str, type[ServiceError]] = {
    error.__name__: error
    for error in (
        ServiceError,
        InvalidRequestError,
        InvalidSystemError,
        UnsupportedOutputError,
        UnsupportedElementError,
        UnknownModelError,
        SystemTooLargeError,
        OverloadedError,
        RequestCancelledError,
        UnavailableError,
        DeadlineExceededError,
        PredictionError,
        NonFinitePredictionError,
        ModelLoadError,
    )
}


def error_of_http_status(status: int) -> type[ServiceError]:
    """Return the most general error with this status, for a reply that names no error."""
    return next((e for e in ERRORS.values() if e.http_status == status), ServiceError)
