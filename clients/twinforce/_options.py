"""The options of a client, checked once, on construction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, Literal

from twinforce._transports.access import Access
from twinforce_proto.headers import LEAST_URGENT, NORMAL_URGENCY

Encoding = Literal["protobuf", "json"]
ReplyDtype = Literal["float64", "float32"]

# Sockets take no longer time limit than 24 days.
_LONGEST_LIMIT_S = 2_000_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a client; `Client` documents them.

    Time limits are None here if there is none.

    Raises:
        ValueError: An option has a value that makes no sense.
    """

    timeout: float | None = 60.0
    reconnect_timeout: float | Literal["timeout"] | None = "timeout"
    max_retries: int | None = None
    encoding: Encoding = "protobuf"
    reply_dtype: ReplyDtype = "float64"
    urgency: int = NORMAL_URGENCY
    access: Access = field(default_factory=Access)

    def __post_init__(self) -> None:
        self._set("timeout", time_limit("timeout", self.timeout))
        if not (isinstance(self.reconnect_timeout, str) and self.reconnect_timeout == "timeout"):
            limit = time_limit("reconnect_timeout", self.reconnect_timeout, "'timeout'")
            self._set("reconnect_timeout", limit)
        if self.max_retries is not None:
            _check_whole("max_retries", self.max_retries, "from 0, or None", 0, math.inf)
        _check_choice("encoding", self.encoding, ("protobuf", "json"))
        _check_choice("reply_dtype", self.reply_dtype, ("float64", "float32"))
        expected = f"from 0, the most urgent, to {LEAST_URGENT}"
        _check_whole("urgency", self.urgency, expected, 0, LEAST_URGENT)

    @property
    def counts_outages(self) -> bool:
        """True if the time of an outage counts against the timeout of a request."""
        return self.reconnect_timeout == "timeout"

    @property
    def longest_outage(self) -> float | None:
        """Seconds for which a service that cannot be reached is tried again."""
        return self.timeout if self.reconnect_timeout == "timeout" else self.reconnect_timeout

    def _set(self, name: str, value: float | None) -> None:
        object.__setattr__(self, name, value)


def time_limit(name: str, seconds: Any, *others: str) -> float | None:
    """Return a time limit in s, or None if there is none.

    Args:
        name: Name of the argument, for the error.
        seconds: Positive number; None, infinity and more than three weeks mean no limit.
        others: Other values that the argument may have, for the error.

    Raises:
        ValueError: The argument is anything else.
    """
    if seconds is None:
        return None
    if isinstance(seconds, Real | Decimal) and not _is_bool(seconds):
        number = _as_float(seconds)
        if number > _LONGEST_LIMIT_S:
            return None
        if number > 0:
            return number
    expected = " or ".join(["a positive number of seconds, None or infinity", *others])
    raise ValueError(f"{name}: expected {expected}, got {seconds!r}")


def _as_float(number: Any) -> float:
    """Return a number, infinity if it is too large to be a float."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _check_whole(name: str, value: Any, expected: str, least: int, most: float) -> None:
    is_whole = isinstance(value, Integral) and not _is_bool(value)
    if not (is_whole and least <= value <= most):
        raise ValueError(f"{name}: expected a whole number {expected}, got {value!r}")


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if not (isinstance(value, str) and value in choices):
        expected = " or ".join(map(repr, choices))
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
