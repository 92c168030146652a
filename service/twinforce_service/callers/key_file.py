"""The file of keys: its format, and how it is read and written."""

import json
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from twinforce_service.callers.entry import (
    SHARED_MEMBERS,
    AccessEntry,
    checked_mapping,
    checked_name,
    checked_text,
    members_of,
    shared_members,
)
from twinforce_service.callers.key_text import SecretHash, parse_hash

_NEEDED = {"id", "hash"}
_CLAIMS = "claims"
_ID = re.compile(r"[a-z0-9]{10}")
_MOST_BYTES = 16 * 2**20


class KeyFileError(Exception):
    """A file of keys cannot be read, written or understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key(AccessEntry):
    """The entry of one key.

    Attributes:
        id: Part of its text that finds it.
        hash: Hash of its text.
    """

    id: str
    hash: SecretHash = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRule(AccessEntry):
    """An entry for all tokens with certain claims.

    Attributes:
        claims: Values that the claims must have or, if they are lists, contain; of a list here, one
            is enough, and an object stands for its members.
    """

    claims: Mapping[str, Any]

    def matches(self, claims: Mapping[str, Any]) -> bool:
        """Return True if the entry is for a token with these claims."""
        return _contains(claims, self.claims)


KeyFileEntry: TypeAlias = Key | TokenRule


def read_keys(path: Path) -> dict[str, KeyFileEntry]:
    """Return the entries of a file of keys by name.

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
    except (ValueError, RecursionError) as error:
        is_json = not isinstance(error, json.JSONDecodeError | RecursionError)
        reason = str(error) if is_json else f"not JSON: {error}"
        raise KeyFileError(f"{path}: {reason}") from error


def write_keys(path: Path, keys: Iterable[KeyFileEntry]) -> None:
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


def _parsed(values: Any) -> dict[str, KeyFileEntry]:
    entries = checked_mapping(values, "the file").get("keys")
    if values.keys() != {"keys"}:
        raise ValueError(f"expected the member keys, got {', '.join(sorted(values)) or 'none'}")
    found = {name: _entry(name, each) for name, each in checked_mapping(entries, "keys").items()}
    ids = [each.id for each in found.values() if isinstance(each, Key)]
    if twice := {each for each in ids if ids.count(each) > 1}:
        raise ValueError(f"keys: expected different ids, got {', '.join(sorted(twice))} twice")
    return found


def _entry(name: str, values: Any) -> KeyFileEntry:
    try:
        members = checked_mapping(values, "the key")
        needed = {_CLAIMS} if _CLAIMS in members else _NEEDED
        if not (members.keys() >= needed and members.keys() <= needed | SHARED_MEMBERS):
            known = needed | SHARED_MEMBERS
            wrong = ", ".join(sorted((members.keys() - known) | (needed - members.keys())))
            text = f"expected members of {', '.join(sorted(known))}; unknown or missing: {wrong}"
            raise ValueError(text)
        shared = {"name": checked_name(name)} | shared_members(members)
        if _CLAIMS in members:
            return TokenRule(**shared, claims=checked_mapping(members[_CLAIMS], _CLAIMS))
        if not (isinstance(members["id"], str) and _ID.fullmatch(members["id"])):
            raise ValueError("id: expected 10 lowercase letters and digits")
        secret = parse_hash(checked_text(members["hash"], "hash"))
        return Key(**shared, id=members["id"], hash=secret)
    except ValueError as error:
        raise ValueError(f"keys.{name}: {error}") from error


def _members(entry: KeyFileEntry) -> dict[str, Any]:
    """Return the members of an entry in the file."""
    if isinstance(entry, TokenRule):
        return {_CLAIMS: dict(entry.claims)} | members_of(entry)
    return {"id": entry.id, "hash": str(entry.hash)} | members_of(entry)


def _contains(value: Any, wanted: Any) -> bool:
    """Return True if the value of a claim has all that is wanted of it."""
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(
            name in value and _contains(value[name], each) for name, each in wanted.items()
        )
    if isinstance(wanted, list):
        return any(_contains(value, each) for each in wanted)
    values = value if isinstance(value, list) else [value]
    return any(type(each) is type(wanted) and each == wanted for each in values)
