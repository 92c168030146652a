"""Numbers with their errors, as text."""

from collections.abc import Mapping
from typing import Any

UNKNOWN = "-"


def with_error(value: float | None, error: float | None, *, signed: bool = False) -> str:
    """Return a number and its error, with as many digits as the error justifies."""
    if value is None:
        return UNKNOWN
    sign = "+" if signed else ""
    if error is None or error == 0.0:
        return f"{value:{sign}.3g}"
    if error < 1e-6:
        return f"{value:{sign}.1e} ± {error:.1e}"
    digits = 0
    while digits < 8 and error < 2.0 * 10.0**-digits:
        digits += 1
    return f"{value:{sign}.{digits}f} ± {error:.{digits}f}"


def estimate(found: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """Return an estimate as text, with a question mark if its error is not reliable."""
    if not found:
        return UNKNOWN
    text = with_error(found["value"], found["error"], signed=signed)
    return text if found["is_reliable"] or text == UNKNOWN else f"{text} ?"
