"""Advisories in files, such as a checkout of a database, for machines without network."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

_SUFFIXES = {".json", ".yaml", ".yml"}
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Vulnerable:
    """A package of which a vulnerability is known.

    Attributes:
        name: Name of the package.
        version: Its version.
        advisories: Identifiers of the advisories.
    """

    name: str
    version: str
    advisories: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """The advisories of a folder about some packages, and the time of the newest of all."""

    found: list[Vulnerable]
    newest: datetime


def search(folder: Path, packages: Iterable[tuple[str, str]]) -> Known:
    """Return which packages have advisories in a folder, whose files may lie at any depth."""
    wanted = sorted(packages)
    names = {name for name, _ in wanted}
    advisories: dict[str, list[Mapping[str, Any]]] = {}
    newest = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    for advisory in _read(folder):
        newest = max(newest, _time(advisory["modified"]))
        if not advisory.get("withdrawn"):
            for name in names & _names(advisory):
                advisories.setdefault(name, []).append(advisory)
    found = []
    for name, version in wanted:
        about = [each["id"] for each in advisories.get(name, []) if concerns(each, name, version)]
        if about:
            found.append(Vulnerable(name, version, tuple(sorted(about))))
    return Known(found, newest)


def concerns(advisory: Mapping[str, Any], name: str, version: str) -> bool:
    """Return True if an advisory is about a version of a package."""
    parts = [each for each in advisory.get("affected", []) if _name(each) == name]
    return any(
        version in map(str, part.get("versions", []))
        or any(_covers(each, Version(version)) for each in part.get("ranges", []))
        for part in parts
    )


def _read(folder: Path) -> Iterator[Mapping[str, Any]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in _SUFFIXES and not path.name.startswith("."):
            advisory = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506, it is safe
            if isinstance(advisory, dict) and "id" in advisory and "modified" in advisory:
                yield advisory


def _names(advisory: Mapping[str, Any]) -> set[str]:
    return {_name(each) for each in advisory.get("affected", [])}


def _name(affected: Mapping[str, Any]) -> str:
    package = affected.get("package", {})
    return canonicalize_name(package["name"]) if package.get("ecosystem") == "PyPI" else ""


def _covers(versions: Mapping[str, Any], version: Version) -> bool:
    """Return True if a version lies in a range: from `introduced` on, up to what ended it."""
    if versions.get("type") != "ECOSYSTEM":
        return False
    events = [(_bound(text), kind) for event in versions["events"] for kind, text in event.items()]
    is_in = False
    for bound, kind in sorted(events):
        if kind == "introduced":
            is_in = is_in or bound <= version
        elif (kind == "fixed" and bound <= version) or (
            kind == "last_affected" and bound < version
        ):
            is_in = False
    return is_in


def _bound(text: object) -> Version:
    try:
        return Version(str(text))
    except InvalidVersion:
        return Version("0")


def _time(value: object) -> datetime:
    found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return found if found.tzinfo else found.astimezone()
