"""The folder of a distillation, which says how far it has come.

    OUT/state.json           what was asked for, and each phase with its time
    OUT/clock.json           wall time so far, over all attempts
    OUT/data/round-N.xyz     labeled systems that round N added
    OUT/rounds/N/            sampling (labels-*.npz, walkers.npz) and training (train/) of round N
    OUT/start.xyz            the equilibrated system that the student is measured on
    OUT/assessment/          measurements, which `twinforce assess` can continue
    OUT/measured.json        other measurements
    OUT/student/             the student: model.safetensors, model.json, CARD.md
    OUT/report.html, .json   results
    OUT/logs/                output of the programs that were run

Files are replaced as a whole, so that a command that was killed continues.
"""

import fcntl
import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from twinforce._files import partial_of
from twinforce.assess.folder import as_json, write_json

_FORMAT = 1
_TICK_S = 2.0


@dataclass(slots=True)
class Phase:
    """A phase of the work.

    Attributes:
        allotted_s: Wall time that it was given, in s.
        began_s: Wall time of the whole distillation when it began, in s.
        spent_s: Wall time that it took, in s, when it ended.
        is_done: True if it has ended.
        facts: What later phases and the report need to know.
    """

    allotted_s: float
    began_s: float = 0.0
    spent_s: float = 0.0
    is_done: bool = False
    facts: dict[str, Any] = field(default_factory=dict)


class DistillFolder:
    """The folder of one distillation.

    Args:
        path: The folder.

    Attributes:
        phases: The phases that have begun, by name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.phases: dict[str, Phase] = {}
        self._identity: Mapping[str, Any] = {}
        self._before_s = 0.0
        self._begin = time.monotonic()

    @contextmanager
    def claimed(self, identity: Mapping[str, Any], *, anew: bool) -> Iterator[None]:
        """Hold the folder for this process, and count the time, inside this context.

        Args:
            identity: Everything that the results depend on, by the name of its option.
            anew: Delete a distillation in the folder.

        Raises:
            ValueError: The folder holds a distillation of something else, or other files, or
                another process works in it.
        """
        record = as_json(identity)
        self._check(record, anew=anew)
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"{self.path}: another process works in this folder") from error
            if anew:
                self._clear()
            self._identity = record
            self._load()
            self.save()
            with self._ticking():
                yield

    @property
    def spent_s(self) -> float:
        """Wall time over all attempts, in s."""
        return self._before_s + time.monotonic() - self._begin

    def save(self) -> None:
        """Write the state."""
        phases = {name: asdict(phase) for name, phase in self.phases.items()}
        content = {"format": _FORMAT, "identity": self._identity, "phases": phases}
        write_json(self.path / "state.json", as_json(content))

    def phase(self, name: str, allotted_s: float) -> Phase:
        """Return a phase that has begun, or begin it with this time."""
        if name not in self.phases:
            self.phases[name] = Phase(allotted_s, self.spent_s)
            self.save()
        return self.phases[name]

    def round(self, number: int) -> Path:
        """Return the folder of a round."""
        return self.path / "rounds" / str(number)

    @property
    def data(self) -> Path:
        """Folder of the labeled systems."""
        return self.path / "data"

    @property
    def student(self) -> Path:
        """Folder of the student."""
        return self.path / "student"

    @property
    def logs(self) -> Path:
        """Folder of the output of programs."""
        return self.path / "logs"

    def trained(self, number: int) -> Path:
        """Return the folder of the model that a round trained."""
        return self.round(number) / "train" / "model"

    def _check(self, record: Mapping[str, Any], *, anew: bool) -> None:
        path = self.path / "state.json"
        if self.path.is_file():
            raise ValueError(f"{self.path}: expected a folder, got a file")
        if path.exists():
            if not anew:
                _check_same(path, json.loads(path.read_text())["identity"], record)
        elif self.path.exists() and {*self.path.iterdir()} - {self.path / "lock", partial_of(path)}:
            raise ValueError(
                f"{self.path}: expected an empty folder or one of a distillation; choose another"
            )

    def _clear(self) -> None:
        for name in ("rounds", "data", "student", "assessment", "logs"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for pattern in ("*.json", "*.xyz", "report.html"):
            for file in self.path.glob(pattern):
                file.unlink()

    def _load(self) -> None:
        path = self.path / "state.json"
        if path.exists():
            phases = json.loads(path.read_text())["phases"]
            self.phases = {name: Phase(**values) for name, values in phases.items()}
        clock = self.path / "clock.json"
        self._before_s = json.loads(clock.read_text())["spent_s"] if clock.exists() else 0.0
        self._begin = time.monotonic()

    @contextmanager
    def _ticking(self) -> Iterator[None]:
        """Save the time every two seconds, so that a kill loses no more."""
        is_over = threading.Event()

        def tick() -> None:
            while not is_over.wait(_TICK_S):
                self._save_clock()

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            self._save_clock()

    def _save_clock(self) -> None:
        write_json(self.path / "clock.json", {"spent_s": self.spent_s})


def _check_same(path: Path, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    for name in [*given, *(each for each in stored if each not in given)]:
        if stored.get(name) != given.get(name):
            raise ValueError(
                f"{path}: began with {name} {_short(stored.get(name))}, got "
                f"{_short(given.get(name))}: choose another folder, or start over with --anew"
            )


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_short, value)) or "none"
    return "none" if value is None else str(value)
