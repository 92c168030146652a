"""The file of keys: its format, and how it is read and written."""

import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from twinforce_proto.headers import is_model_name
from twinforce_service.callers.caller import Caller
from twinforce_service.callers.key_text import SecretHash, parse_hash
from twinforce_service.callers.limits import CallerLimits
from twinforce_service.callers.permission import CALLS, Permission, checked_scopes

_MEMBERS = {"id", "hash", "scopes", "models", "share", "may_be_urgent", "limits", "expires"}
_NEEDED = {"id", "hash"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_ID = re.compile(r"[a-z0-9]{10}")
_DURATION = re.compile(r"(\d+)([dhm])")
_MOST_BYTES = 16 * 2**20


class KeyFileError(Exception):
    """A file of keys cannot be read, written or understood."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a file.

    Attributes:
        name: Name of its owner, as in metrics and logs.
        id: Part of its text that finds it.
        hash: Hash of its text.
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
    id: str
    hash: SecretHash = field(repr=False)
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


def read_keys(path: Path) -> dict[str, Key]:
    """Return the keys in a file by name.

    Raises:
        KeyFileError: The file cannot be read, is not a file of keys, or others may write to it.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KeyFileError(f"{path}: expected a file that only its owner may write to: chmod 600")
    if len(content) > _MOST_BYTES:
        raise KeyFileError(f"{path}: expected at most {_MOST_BYTES} bytes")
    try:
        return _parsed(json.loads(content))
    except ValueError as error:
        reason = f"not JSON: {error}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise KeyFileError(f"{path}: {reason}") from error


def write_keys(path: Path, keys: Iterable[Key]) -> None:
    """Write a file of keys as a whole, so that readers see the old one or the new one.

    Only its owner may read it.

    Raises:
        KeyFileError: The file cannot be written.
    """
    content = json.dumps({"keys": {key.name: _members(key) for key in keys}}, indent=2) + "\n"
    try:
        target = path.resolve()
        number, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # mode 0600
        new = Path(name)
        try:
            with os.fdopen(number, "w") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(target)
        except BaseException:
            new.unlink()
            raise
    except OSError as error:
        raise KeyFileError(f"{path}: {(error.strerror or str(error)).lower()}") from error


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


def _parsed(values: Any) -> dict[str, Key]:
    entries = _mapping(values, "the file").get("keys")
    if values.keys() != {"keys"}:
        raise ValueError(f"expected the member keys, got {', '.join(sorted(values)) or 'none'}")
    keys = {name: _key(name, entry) for name, entry in _mapping(entries, "keys").items()}
    ids = [key.id for key in keys.values()]
    if twice := {each for each in ids if ids.count(each) > 1}:
        raise ValueError(f"keys: expected different ids, got {', '.join(sorted(twice))} twice")
    return keys


def _key(name: str, entry: Any) -> Key:
    try:
        members = _mapping(entry, "the key")
        if not (members.keys() >= _NEEDED and members.keys() <= _MEMBERS):
            wrong = ", ".join(sorted((members.keys() - _MEMBERS) | (_NEEDED - members.keys())))
            known = ", ".join(sorted(_MEMBERS))
            raise ValueError(f"expected members of {known}; unknown or missing: {wrong}")
        if not (isinstance(members["id"], str) and _ID.fullmatch(members["id"])):
            raise ValueError("id: expected 10 lowercase letters and digits")
        models, expires = members.get("models"), members.get("expires")
        if not isinstance(members.get("may_be_urgent", False), bool):
            raise ValueError(f"may_be_urgent: expected a bool, got {members['may_be_urgent']!r}")
        return Key(
            checked_name(name),
            members["id"],
            parse_hash(_text(members["hash"], "hash")),
            checked_scopes(_texts(members.get("scopes", CALLS), "scopes")),
            None if models is None else checked_models(_texts(models, "models")),
            checked_share(members.get("share", 1.0)),
            members.get("may_be_urgent", False),
            _limits(members["limits"]) if "limits" in members else None,
            None if expires is None else parse_time(_text(expires, "expires")),
        )
    except ValueError as error:
        raise ValueError(f"keys.{name}: {error}") from error


def _limits(values: Any) -> CallerLimits:
    """Return the limits in a file; those that it leaves out are no limits."""
    known = [each.name for each in fields(CallerLimits)]
    for name, value in _mapping(values, "limits").items():
        if name not in known:
            raise ValueError(f"limits: expected some of {', '.join(known)}, got {name!r}")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"limits: {name}: expected a positive number, got {value!r}")
    try:
        return CallerLimits(**values)
    except ValueError as error:
        raise ValueError(f"limits: {error}") from error


def _members(key: Key) -> dict[str, Any]:
    """Return the members of a key in the file, without those that have their defaults."""
    members: dict[str, Any] = {
        "id": key.id,
        "hash": str(key.hash),
        "scopes": sorted(key.scopes),
        "models": None if key.models is None else sorted(key.models),
        "share": None if key.share == 1.0 else key.share,
        "may_be_urgent": key.may_be_urgent or None,
        "limits": None if key.limits is None else _given(key.limits),
        "expires": None if key.expires is None else key.expires.isoformat(timespec="seconds"),
    }
    return {name: value for name, value in members.items() if value is not None}


def _given(limits: CallerLimits) -> dict[str, float]:
    return {name: value for name, value in asdict(limits).items() if value < math.inf}


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected a JSON object, got {type(value).__name__}")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a text, got {type(value).__name__}")
    return value


def _texts(values: Any, name: str) -> list[str]:
    if not isinstance(values, list | tuple):
        raise ValueError(f"{name}: expected a list of names, got {type(values).__name__}")
    return [_text(value, name) for value in values]
