"""Headers that tell a caller its limits (draft-ietf-httpapi-ratelimit-headers)."""

import math
from collections.abc import Sequence

from twinforce_service.callers.allowances import Allowance

# Units of quotas that the draft knows; the others count atoms, steps and runs.
_UNITS = {"max_requests": "concurrent-requests"}


def rate_limit_headers(left: Sequence[Allowance]) -> dict[str, str]:
    """Return the headers that tell the limits of a caller; none without limits."""
    if not left:
        return {}
    return {
        "RateLimit-Policy": ", ".join(map(_policy, left)),
        "RateLimit": ", ".join(map(_state, left)),
    }


def _policy(allowance: Allowance) -> str:
    text = f'"{allowance.name}";q={math.floor(allowance.quota)}'
    if allowance.window is not None:
        text += f";w={math.ceil(allowance.window)}"
    if (unit := _UNITS.get(allowance.name)) is not None:
        text += f';qu="{unit}"'
    return text


def _state(allowance: Allowance) -> str:
    left, reset = math.floor(allowance.left), math.ceil(allowance.reset)
    return f'"{allowance.name}";r={left};t={reset}'
