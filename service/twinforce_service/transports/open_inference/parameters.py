"""The parameters of a request: its priority, its timeout, and the type of the reply."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from twinforce_proto import InvalidRequestError
from twinforce_proto.headers import LEAST_URGENT, MOST_URGENT

_REPLY_DTYPES = ("float64", "float32")
# Priorities count from 1, the first, while 0 stands for none in particular.
_FIRST_PRIORITY = 1
_LAST_PRIORITY = LEAST_URGENT - MOST_URGENT + _FIRST_PRIORITY
_MICROSECONDS = 1e6
# Longest timeout, in microseconds: the largest integer of 64 bits.
_MAX_TIMEOUT = 2**63 - 1

# What would change the meaning of a request or of a tensor, and is not served. Other parameters
# are for programs between the client and the service, or for other servers.
_OF_REQUESTS = ("sequence_id", "sequence_start", "sequence_end")
_OF_TENSORS = ("shared_memory_region", "classification")


@dataclass(frozen=True, slots=True)
class InferOptions:
    """The meaning of the parameters of a request.

    Attributes:
        urgency: Urgency from 0, the most urgent, to 7; None if the request gives none.
        timeout: Seconds to wait; None if the request gives none.
        reply_dtype: Type of the arrays in the reply, "float64" or "float32".
        is_binary: True to reply with raw bytes over REST, for tensors that do not say.
    """

    urgency: int | None = None
    timeout: float | None = None
    reply_dtype: str = "float64"
    is_binary: bool = False

    def timeout_within(self, other: float | None) -> float | None:
        """Return the shorter one of two timeouts, in s, or None if there is neither."""
        given = [each for each in (self.timeout, other) if each is not None]
        return min(given, default=None)


def options_of(parameters: Mapping[str, Any]) -> InferOptions:
    """Return the meaning of the parameters of a request.

    Args:
        parameters: Bools, numbers and texts by name.

    Raises:
        InvalidRequestError: A value is invalid, or asks for something that is not served.
    """
    _refuse(parameters, _OF_REQUESTS)
    return InferOptions(
        urgency=_urgency(parameters.get("priority", 0)),
        timeout=_timeout(parameters.get("timeout", 0)),
        reply_dtype=_reply_dtype(parameters.get("reply_dtype", _REPLY_DTYPES[0])),
        is_binary=is_set(parameters, "binary_data_output"),
    )


def check_tensor_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters of a tensor that ask for something that is not served.

    Raises:
        InvalidRequestError: There is such a parameter.
    """
    _refuse(parameters, _OF_TENSORS)


def is_set(parameters: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    """Return the value of a parameter that is a bool.

    Raises:
        InvalidRequestError: It is something else.
    """
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequestError.expected(_field(name), "true or false", repr(value))
    return value


def _urgency(priority: object) -> int | None:
    if not _is_whole(priority) or not 0 <= priority <= _LAST_PRIORITY:
        expected = f"0, or a whole number from {_FIRST_PRIORITY}, the first, to {_LAST_PRIORITY}"
        raise InvalidRequestError.expected(_field("priority"), expected, repr(priority))
    return MOST_URGENT + priority - _FIRST_PRIORITY if priority else None


def _timeout(microseconds: object) -> float | None:
    if not _is_whole(microseconds) or not 0 <= microseconds <= _MAX_TIMEOUT:
        expected = "0, or a positive whole number of microseconds below 2**63"
        raise InvalidRequestError.expected(_field("timeout"), expected, repr(microseconds))
    return microseconds / _MICROSECONDS if microseconds else None


def _reply_dtype(name: object) -> str:
    if not isinstance(name, str) or name not in _REPLY_DTYPES:
        expected = " or ".join(_REPLY_DTYPES)
        raise InvalidRequestError.expected(_field("reply_dtype"), expected, repr(name))
    return name


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse(parameters: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if parameters.get(name):
            expected = "none, as this is not served"
            raise InvalidRequestError.expected(_field(name), expected, repr(parameters[name]))


def _field(name: str) -> str:
    return f"parameters.{name}"
