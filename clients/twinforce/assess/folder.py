"""The folder of an assessment: its identity, and a subfolder for each unit of work.

    FOLDER/assessment.json        model, system and conditions; an assessment of others is refused
    FOLDER/units/KEY/unit.json    settings of the unit; if they change, the unit starts over
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

from twinforce._files import partial_of, replace_file
from twinforce._systems import are_fixed, labels_of
from twinforce.assess.budget import EXPIRED, Deadline

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class UnitResults:
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
        """Claim the folder for an assessment, or check that it already belongs to this one.

        Args:
            identity: Everything that every unit depends on.
            anew: Delete an assessment with another identity.

        Raises:
            ValueError: The folder holds an assessment with another identity, which the message
                names.
        """
        record = {"format": _FORMAT} | as_json(identity)
        path = self.path / "assessment.json"
        if anew and path.exists():
            shutil.rmtree(self.path / "units", ignore_errors=True)
        elif path.exists():
            _check_same(path, json.loads(path.read_text()), record)
        elif self.path.exists() and {*self.path.iterdir()} - {partial_of(path)}:
            raise ValueError(f"{self.path}: expected an empty folder or one of an assessment")
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(path, record)

    def directory(self, key: str) -> Path:
        """Return the subfolder of a unit."""
        return self.path / "units" / key.replace(":", "_")

    def prepare(self, key: str, settings: Mapping[str, Any]) -> bool:
        """Create the subfolder of a unit; return True if files with other settings were deleted."""
        directory, record = self.directory(key), {"key": key, "settings": as_json(settings)}
        path = directory / "unit.json"
        is_outdated = path.exists() and not self.has_settings(key, settings)
        if is_outdated:
            for file in directory.iterdir():
                if file.name != "lock":
                    file.unlink()
        directory.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        return is_outdated

    def has_settings(self, key: str, settings: Mapping[str, Any]) -> bool:
        """Return True if the files of a unit were made with these settings."""
        path = self.directory(key) / "unit.json"
        return path.exists() and json.loads(path.read_text())["settings"] == as_json(settings)

    def keys(self) -> list[str]:
        """Return the keys of the units that have been started."""
        paths = sorted(self.path.glob("units/*/unit.json"))
        return [json.loads(path.read_text())["key"] for path in paths]

    def results(self, key: str) -> UnitResults | None:
        """Return the results of a unit, or None if it has not been run."""
        return read_results(self.directory(key))

    def write(self, key: str, results: UnitResults) -> None:
        """Write the results of a unit."""
        write_json(self.directory(key) / "found.json", as_json(asdict(results)))

    @contextmanager
    def locked(self, key: str, deadline: Deadline = EXPIRED) -> Iterator[bool]:
        """Lock a unit for this process; yield whether that succeeded.

        Args:
            key: Key of the unit.
            deadline: Time until which to wait for another process to release the lock.
        """
        directory = self.directory(key)
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "lock").open("w") as file:
            while not (is_ours := _try_lock(file)) and not deadline.is_over:
                time.sleep(1.0)
            yield is_ours


def read_results(directory: Path) -> UnitResults | None:
    """Return the results in the subfolder of a unit, or None if it has not been run."""
    path = directory / "found.json"
    return UnitResults(**json.loads(path.read_text())) if path.exists() else None


def write_json(path: Path, content: Any) -> None:
    """Write JSON to a file, replacing it atomically."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    replace_file(path, text.encode())


def as_json(value: Any) -> Any:
    """Return the value in types that JSON can represent; NaN and infinity become None."""
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
    """Return the SHA-256, in hexadecimal, of all that a simulation of the atoms depends on."""
    digest = hashlib.sha256()
    for array, kind in (
        (atoms.numbers, np.int64),
        (atoms.positions, np.float64),
        (atoms.cell.array, np.float64),
        (atoms.pbc, np.bool_),
        (atoms.get_masses(), np.float64),
    ):
        digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
    if fixed := np.flatnonzero(are_fixed(atoms)).tolist():
        digest.update(repr(fixed).encode())
    if labels := labels_of(atoms):
        digest.update(repr(labels).encode())
    return digest.hexdigest()


def _try_lock(file: IO[str]) -> bool:
    """Lock a file for as long as it is open; return False if another process holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_same(path: Path, stored: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name, value in expected.items():
        if stored.get(name) != value:
            raise ValueError(
                f"{path}: expected an assessment with {name} {value}, got one with "
                f"{stored.get(name)}: choose another folder, or start over with --anew"
            )
