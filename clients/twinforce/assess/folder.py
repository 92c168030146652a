"""Where an assessment lives: what it is of, and one place for each unit of work.

    FOLDER/assessment.json        of which model, system and settings; others are refused
    FOLDER/units/KEY/unit.json    the settings of a unit; others begin it anew
    FOLDER/units/KEY/found.json   what it found so far, and whether it is done
    FOLDER/units/KEY/...          what it needs to go on

Files are replaced at once or not at all, and a unit that one process works on is locked for all
others, so that several may share the units of a folder.
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
    """What a unit has found so far.

    Attributes:
        values: As JSON has them.
        is_done: Whether there is nothing left to do.
        note: What a reader should know: why it ended early, or was not run.
        wall_s: How long it took, over all attempts, in s.
        cost: Of the unit when this was found; a larger one goes on.
        analysis: Which one made the values of what was recorded; older ones are made again.
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
        """Make it that of an assessment, or check that it is.

        Args:
            identity: All that every unit depends on.
            anew: Whether one of anything else is deleted.

        Raises:
            ValueError: It holds an assessment of something else; says of what.
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
        """Return where a unit keeps its files."""
        return self.path / "units" / key.replace(":", "_")

    def prepare(self, key: str, settings: Mapping[str, Any]) -> bool:
        """Make the place of a unit; return whether files with other settings were deleted."""
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
        """Whether the files of a unit are good for these settings."""
        mark = self.place(key) / "unit.json"
        return mark.exists() and json.loads(mark.read_text())["settings"] == as_json(settings)

    def keys(self) -> list[str]:
        """Return the units that were begun."""
        marks = sorted(self.path.glob("units/*/unit.json"))
        return [json.loads(mark.read_text())["key"] for mark in marks]

    def found(self, key: str) -> Found | None:
        """Return what a unit found; None where it has not been run."""
        return read_found(self.place(key))

    def keep(self, key: str, found: Found) -> None:
        """Write what a unit found."""
        write_json(self.place(key) / "found.json", as_json(asdict(found)))

    @contextmanager
    def locked(self, key: str, patience: Deadline = AT_ONCE) -> Iterator[bool]:
        """Hold a unit for this process; give whether that was possible.

        Args:
            key: Of the unit.
            patience: Until when to wait for a process that holds it.
        """
        place = self.place(key)
        place.mkdir(parents=True, exist_ok=True)
        with (place / "lock").open("w") as file:
            while not (is_ours := _try_lock(file)) and not patience.is_over:
                time.sleep(1.0)
            yield is_ours


def read_found(place: Path) -> Found | None:
    """Return what the unit with its files there found; None where it has not been run."""
    path = place / "found.json"
    return Found(**json.loads(path.read_text())) if path.exists() else None


def write_json(path: Path, content: Any) -> None:
    """Replace a file at once."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    beside.replace(path)


def as_json(value: Any) -> Any:
    """Return a value as JSON has it: what is not finite becomes null."""
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
    """Return a SHA-256 of what a potential sees of atoms, in hexadecimal."""
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
    """Lock a file for as long as it is open; return whether nobody else had."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_same(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        if stored.get(name) != value:
            raise ValueError(
                f"{path}: holds an assessment with {name} {stored.get(name)}, but {value} is "
                "wanted: name another folder, or begin anew (--anew)"
            )
