"""An entry of the file of keys: whom it is for, and what they may do."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from twinforce_proto.headers import is_model_name
from twinforce_service.callers.caller import Caller
from twinforce_service.callers.limits import CallerLimits
from twinforce_service.callers.permission import CALLS, Permission, checked_scopes

SHARED_MEMBERS = {"scopes", "models", "share", "may_be_urgent", "limits", "expires"}
"""Members that every entry may have."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DURATION = re.compile(r"(\d+)([dhm])")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessEntry:
    """An entry of a file of keys.

    Attributes:
        name: Name of its owner, as in metrics and logs.
        scopes: Calls that it is for.
        models: Models that it is for; None means all.
        share: Share of the device's time, relative to other callers.
        may_be_urgent: True if its urgent requests go before those of others.
        limits: Limits on what its owner may ask for; None means those in the settings.
        expires: Time from which it is not valid any more; None means never.
        caller: Caller that it stands for.
        permission: Calls and models that it allows.
    """

    name: str
    scopes: frozenset[str] = frozenset(CALLS)
    models: frozenset[str] | None = None
    share: float = 1.0
    may_be_urgent: bool = False
    limits: CallerLimits | None = None
    expires: datetime | None = None

    caller: Caller = field(init=False, repr=False, compare=False)
    permission: Permission = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        caller = Caller(self.name, self.share, self.may_be_urgent, self.limits)
        object.__setattr__(self, "caller", caller)
        permission = Permission(self.name, self.scopes, self.models)
        object.__setattr__(self, "permission", permission)


def shared_members(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an entry that the members of its JSON object give.

    Raises:
        ValueError: A member is invalid.
    """
    models, expires = members.get("models"), members.get("expires")
    if not isinstance(members.get("may_be_urgent", False), bool):
        raise ValueError(f"may_be_urgent: expected a bool, got {members['may_be_urgent']!r}")
    return {
        "scopes": checked_scopes(checked_texts(members.get("scopes", CALLS), "scopes")),
        "models": None if models is None else checked_models(checked_texts(models, "models")),
        "share": checked_share(members.get("share", 1.0)),
        "may_be_urgent": members.get("may_be_urgent", False),
        "limits": _limits(members["limits"]) if "limits" in members else None,
        "expires": None if expires is None else parse_time(checked_text(expires, "expires")),
    }


def members_of(entry: AccessEntry) -> dict[str, Any]:
    """Return the shared members of an entry, without those that have their defaults."""
    members: dict[str, Any] = {
        "scopes": sorted(entry.scopes),
        "models": None if entry.models is None else sorted(entry.models),
        "share": None if entry.share == 1.0 else entry.share,
        "may_be_urgent": entry.may_be_urgent or None,
        "limits": None if entry.limits is None else _given(entry.limits),
        "expires": None if entry.expires is None else entry.expires.isoformat(timespec="seconds"),
    }
    return {name: value for name, value in members.items() if value is not None}


def parse_time(text: str, now: datetime | None = None) -> datetime:
    """Return a time: one in ISO 8601, in UTC unless it says so, or a duration from now, as 90d.

    Raises:
        ValueError: The text is neither.
    """
    if found := _DURATION.fullmatch(text):
        unit = {"d": "days", "h": "hours", "m": "minutes"}[found[2]]
        try:
            return (now or datetime.now(UTC)) + timedelta(**{unit: int(found[1])})
        except OverflowError:
            raise ValueError(
                f"expires: expected a time before the year 10000, got {text!r}"
            ) from None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        example = "2030-01-31, 2030-01-31T12:00Z or 90d"
        raise ValueError(f"expires: expected a time, such as {example}, got {text!r}") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def parse_limits(texts: Sequence[str]) -> CallerLimits | None:
    """Return the limits in texts such as max_runs=4; None without any.

    Raises:
        ValueError: A limit does not exist, or is not a positive number.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            values[name] = float(number)
        except ValueError:
            raise ValueError(f"limits: expected NAME=NUMBER, got {text!r}") from None
    return _limits(values) if values else None


def checked_name(name: str) -> str:
    """Return the name of a key.

    Raises:
        ValueError: It is not a name that logs and metrics can show.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"name: expected letters, digits, '.', '_', '@' and '-', got {name!r}")
    return name


def checked_models(names: Iterable[str]) -> frozenset[str]:
    """Return names of models as a set.

    Raises:
        ValueError: One of them is no such name, or there is none.
    """
    models = frozenset(names)
    if not models or not all(is_model_name(name) for name in models):
        got = ", ".join(sorted(models)) or "none"
        raise ValueError(f"models: expected names of models, got {got}")
    return models


def checked_share(share: Any) -> float:
    """Return a share of the device's time.

    Raises:
        ValueError: It is not a positive number.
    """
    is_number = isinstance(share, int | float) and not isinstance(share, bool)
    if not (is_number and 0 < share < math.inf):
        raise ValueError(f"share: expected a positive number, got {share!r}")
    return float(share)


def checked_mapping(value: Any, name: str) -> Mapping[str, Any]:
    """Return a value, which must be a JSON object; otherwise raise `ValueError`."""
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected a JSON object, got {type(value).__name__}")
    return value


def checked_text(value: Any, name: str) -> str:
    """Return a value, which must be a text; otherwise raise `ValueError`."""
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a text, got {type(value).__name__}")
    return value


def checked_texts(values: Any, name: str) -> list[str]:
    """Return a value, which must be a list of texts; otherwise raise `ValueError`."""
    if not isinstance(values, list | tuple):
        raise ValueError(f"{name}: expected a list of names, got {type(values).__name__}")
    return [checked_text(value, name) for value in values]


def _limits(values: Any) -> CallerLimits:
    """Return the limits in a file; those that it leaves out are no limits."""
    known = [each.name for each in fields(CallerLimits)]
    for name, value in checked_mapping(values, "limits").items():
        if name not in known:
            raise ValueError(f"limits: expected some of {', '.join(known)}, got {name!r}")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"limits: {name}: expected a positive number, got {value!r}")
    try:
        return CallerLimits(**values)
    except ValueError as error:
        raise ValueError(f"limits: {error}") from error


def _given(limits: CallerLimits) -> dict[str, float]:
    return {name: value for name, value in asdict(limits).items() if value < math.inf}
