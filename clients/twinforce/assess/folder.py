"""The folder of an assessment: its identity, and a subfolder for each unit of work.

    FOLDER/assessment.json        model, system and settings; any others are refused
    FOLDER/units/KEY/unit.json    settings of a unit; with any others the unit starts over
    FOLDER/units/KEY/found.json   results so far, and whether the unit is done
    FOLDER/units/KEY/...          files that the unit needs to continue

Files are replaced atomically, and a unit is locked while a process works on it, so that several
processes can share the units of a folder.
"""

import fcntl
import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from twinforce.assess.budget import AT_ONCE, Deadline

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Found:
    """The results of a unit so far.

    Attributes:
        values: Results that JSON can represent.
        is_done: True if no work is left.
        note: Remark for the reader, such as why the unit ended early or was not run.
        wall_s: Wall time over all attempts, in s.
        cost: Cost of the unit when it was run; a unit with a larger cost continues.
        analysis: Version of the analysis that made the values; older values are recomputed from
            the recordings.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    is_done: bool = True
    note: str = ""
    wall_s: float = 0.0
    cost: float = 0.0
    analysis: int = 1


class Folder:
    """The folder of one assessment."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def claim(self, identity: Mapping[str, Any], *, anew: bool = False) -> None:
        """Reserve the folder for an assessment, or check that it holds this one.

        Args:
            identity: Everything that every unit depends on.
            anew: Delete an assessment with another identity.

        Raises:
            ValueError: The folder holds an assessment with another identity, which the message
                names.
        """
        record = {"format": _FORMAT} | as_json(identity)
        mark = self.path / "assessment.json"
        if anew and mark.exists():
            shutil.rmtree(self.path / "units", ignore_errors=True)
        elif mark.exists():
            _check_same(mark, json.loads(mark.read_text()), record)
        elif self.path.exists() and any(self.path.iterdir()):
            raise ValueError(f"{self.path}: expected an empty folder or one of an assessment")
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(mark, record)

    def place(self, key: str) -> Path:
        """Return the subfolder of a unit."""
        return self.path / "units" / key.replace(":", "_")

    def prepare(self, key: str, settings: Mapping[str, Any]) -> bool:
        """Create the subfolder of a unit; return True if files with other settings were deleted."""
        place, record = self.place(key), {"key": key, "settings": as_json(settings)}
        mark = place / "unit.json"
        is_other = mark.exists() and not self.has_settings(key, settings)
        if is_other:
            for path in place.iterdir():
                if path.name != "lock":
                    path.unlink()
        place.mkdir(parents=True, exist_ok=True)
        write_json(mark, record)
        return is_other

    def has_settings(self, key: str, settings: Mapping[str, Any]) -> bool:
        """Return True if the files of a unit were made with these settings."""
        mark = self.place(key) / "unit.json"
        return mark.exists() and json.loads(mark.read_text())["settings"] == as_json(settings)

    def keys(self) -> list[str]:
        """Return the keys of the units that have been started."""
        marks = sorted(self.path.glob("units/*/unit.json"))
        return [json.loads(mark.read_text())["key"] for mark in marks]

    def found(self, key: str) -> Found | None:
        """Return the results of a unit, or None if it has not been run."""
        return read_found(self.place(key))

    def keep(self, key: str, found: Found) -> None:
        """Write the results of a unit."""
        write_json(self.place(key) / "found.json", as_json(asdict(found)))

    @contextmanager
    def locked(self, key: str, patience: Deadline = AT_ONCE) -> Iterator[bool]:
        """Lock a unit for this process; yield whether that succeeded.

        Args:
            key: Key of the unit.
            patience: Deadline for waiting on a process that holds the lock.
        """
        place = self.place(key)
        place.mkdir(parents=True, exist_ok=True)
        with (place / "lock").open("w") as file:
            while not (is_ours := _try_lock(file)) and not patience.is_over:
                time.sleep(1.0)
            yield is_ours


def read_found(place: Path) -> Found | None:
    """Return the results in the subfolder of a unit, or None if it has not been run."""
    path = place / "found.json"
    return Found(**json.loads(path.read_text())) if path.exists() else None


def write_json(path: Path, content: Any) -> None:
    """Write JSON to a file, replacing it atomically."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    beside.replace(path)


def as_json(value: Any) -> Any:
    """Return a value that JSON can represent; NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(name): as_json(each) for name, each in value.items()}
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, np.generic):
        return as_json(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def digest_of(atoms: Any) -> str:
    """Return the SHA-256 of everything that a potential depends on, in hexadecimal."""
    digest = hashlib.sha256()
    for array, kind in (
        (atoms.numbers, np.int64),
        (atoms.positions, np.float64),
        (atoms.cell.array, np.float64),
        (atoms.pbc, np.bool_),
        (atoms.get_masses(), np.float64),
    ):
        digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
    return digest.hexdigest()


def _try_lock(file: IO[str]) -> bool:
    """Lock a file for as long as it is open; return False if another process holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_same(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        if stored.get(name) != value:
            raise ValueError(
                f"{path}: expected an assessment with {name} {value}, got one with "
                f"{stored.get(name)}: choose another folder, or start over with --anew"
            )
