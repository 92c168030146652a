"""Numbers with their errors, and tables, as text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The text of a number that was not measured, and the beginning of that of one that does not exist.
UNKNOWN, UNDEFINED = "-", "not defined"


@dataclass(frozen=True, slots=True)
class ReportTable:
    """Text in rows and columns."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def number(value: float | None, spec: str, reason: str = "") -> str:
    """Return a number as text, or the reason why it is not defined."""
    if value is not None:
        return format(value, spec)
    return f"{UNDEFINED}: {reason}" if reason else UNDEFINED


def with_error(value: float | None, error: float | None, *, signed: bool = False) -> str:
    """Return a number and its error, with as many digits as the error justifies."""
    if value is None:
        return UNDEFINED
    sign = "+" if signed else ""
    if error is None or error == 0.0:
        return f"{value:{sign}.3g}"
    if error < 1e-6:
        return f"{value:{sign}.1e} ± {error:.1e}"
    digits = 0
    while digits < 8 and error < 2.0 * 10.0**-digits:
        digits += 1
    return f"{value:{sign}.{digits}f} ± {error:.{digits}f}"


def estimate(
    found: Mapping[str, Any] | None, *, signed: bool = False, reason: str = "too short"
) -> str:
    """Return an estimate as text, with a question mark if its error is not reliable.

    Args:
        found: The estimate; None if nothing was measured.
        signed: True to show the sign of a positive value.
        reason: Reason why the value is not defined, if it is not.
    """
    if not found:
        return UNKNOWN
    if found["value"] is None:
        return number(None, "", reason)
    text = with_error(found["value"], found["error"], signed=signed)
    return text if found["is_reliable"] else f"{text} ?"
