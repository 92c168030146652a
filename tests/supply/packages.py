"""Packages and their versions, as installed and as locked."""

import re
from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "locks"
_OURS = "twinforce"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def installed() -> set[tuple[str, str]]:
    """Return the names and public versions of what this interpreter finds, besides ourselves."""
    found = {(canonicalize_name(each.name), _public(each.version)) for each in distributions()}
    return {(name, version) for name, version in found if name != _OURS}


def pinned(path: Path) -> set[tuple[str, str]]:
    """Return the names and public versions that a lock file or a file of constraints pins.

    A name can have several versions, for several versions of Python.
    """
    pins = _PIN.findall(path.read_text(encoding="utf-8"))
    return {(canonicalize_name(name), _public(version)) for name, version in pins}


def _public(version: str) -> str:
    """Return a version without its local part, such as +cpu, which registries do not know."""
    return Version(version).public
