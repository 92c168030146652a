"""The files of a run: its log, its trajectory, and the restart file that keeps them together."""

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from twinforce.md.growing import GrowingFile, Mark
from twinforce.md.instants import Instant, LogWriter
from twinforce.md.summary import counted

TRAJECTORY_SUFFIXES = (".traj", ".xyz", ".extxyz")


_Writer = Callable[[Instant], None]


class RunFiles:
    """The files of a run, written at each interval; a killed run continues without a gap.

    The restart file is written last and says how long the others are. A run that continues cuts
    them back to that length, so that no state is in them twice, in part, or not at all.

    Args:
        dynamics: The `MultipleTimeStepping` to record.
        log: File of comma-separated values.
        trajectory: A .traj, .xyz or .extxyz file.
        restart: Restart file.
        saved: Content of the restart file that the run continues from; None for a new run.

    Raises:
        ValueError: A file is not what the run left behind, or its format is unknown.
    """

    def __init__(
        self,
        dynamics: Any,
        *,
        log: Path | None = None,
        trajectory: Path | None = None,
        restart: Path | None = None,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        self._dynamics = dynamics
        self._restart = restart
        self._is_continued = saved is not None
        given = {"log": log, "trajectory": trajectory}
        self._paths = {role: path for role, path in given.items() if path is not None}
        if trajectory is not None and trajectory.suffix.lower() not in TRAJECTORY_SUFFIXES:
            raise ValueError(f"{trajectory}: expected a name that ends in .traj, .xyz or .extxyz")
        self._marks = {
            role: _continued(path, (saved or {}).get(role))
            for role, path in self._paths.items()
            if saved is not None
        }
        self._files: dict[str, GrowingFile] = {}
        self._writers: list[_Writer] = []
        self._n_saved: int | None = dynamics.get_number_of_steps() if self._is_continued else None

    @property
    def n_saved(self) -> int | None:
        """Number of outer steps in the restart file; None if there is none."""
        return self._n_saved if self._restart else None

    def open(self) -> list[str]:
        """Open the files, cut back those that continue, and return what was done to them."""
        remarks = []
        for role, path in self._paths.items():
            mark = self._marks.get(role)
            file = self._files[role] = GrowingFile(path, mark)
            if file.n_cut:
                remarks.append(
                    f"{path}: removed {counted(file.n_cut, 'byte')} behind the saved state"
                )
            self._writers.append(self._writer_of(role, file))
        if self._is_continued:
            self.save()
        return remarks

    def write(self, instant: Instant) -> None:
        """Write a state to all files."""
        for write in self._writers:
            write(instant)
        self.save()

    def save(self) -> None:
        """Write the restart file, after all that it counts on is on the disk."""
        if self._restart is None:
            return
        marks = {role: file.mark() for role, file in self._files.items()}
        found = {role: asdict(mark) for role, mark in marks.items() if mark is not None}
        self._dynamics.save(self._restart, files=found)
        self._n_saved = self._dynamics.get_number_of_steps()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def _writer_of(self, role: str, file: GrowingFile) -> _Writer:
        if role == "log":
            return _log_writer(file)
        if file.path.suffix.lower() == ".traj":
            return _traj_writer(file, self._dynamics.atoms)
        return _extxyz_writer(file, self._dynamics.atoms)


def _continued(path: Path, recorded: Mapping[str, Any] | None) -> Mark | None:
    """Return where to cut a file of a run that continues; None to begin a new file.

    Raises:
        ValueError: The file is not what the run left behind.
    """
    mark = None if recorded is None else Mark(**recorded)
    if path.exists() and not path.is_file():
        return None
    if path.exists() and path.stat().st_size > 0:
        if mark is None:
            raise ValueError(
                f"{path}: expected no such file, because the restart file does not know it; "
                "remove it or choose another name"
            )
        mark.check(path)
        _check_format(path, mark)
        return mark
    if mark is not None and mark.size > 0 and mark.name == path.name:
        raise ValueError(
            f"{path}: expected the file that the restart file belongs to, got none; choose another "
            "name to begin a new file"
        )
    return None


def _check_format(path: Path, mark: Mark) -> None:
    """Check that a file that was renamed is still named for the format that it has.

    Raises:
        ValueError: The name ends in the suffix of another format.
    """
    is_named_traj = path.suffix.lower() == ".traj"
    if mark.is_traj != is_named_traj:
        kinds = ("a .traj file", "a text file")
        expected, got = kinds if is_named_traj else kinds[::-1]
        raise ValueError(f"{path}: expected {expected}, as its name says, got {got}; rename it")


def _log_writer(file: GrowingFile) -> _Writer:
    text = io.StringIO(newline="")
    log = LogWriter(text, has_header=file.size > 0)

    def write(instant: Instant) -> None:
        log.write(instant)
        with file.record():
            file.write(text.getvalue().encode())
        text.seek(0)
        text.truncate()

    return write


def _extxyz_writer(file: GrowingFile, atoms: Any) -> _Writer:
    from ase.io import write as write_atoms

    def write(_: Instant) -> None:
        text = io.StringIO()
        write_atoms(text, atoms, format="extxyz")
        with file.record():
            file.write(text.getvalue().encode())

    return write


def _traj_writer(file: GrowingFile, atoms: Any) -> _Writer:
    from ase.io.trajectory import TrajectoryWriter

    trajectory = TrajectoryWriter(file, "a" if file.size else "w", atoms)
    file.seek(0, os.SEEK_END)  # the first frame was read

    def write(_: Instant) -> None:
        with file.record():
            trajectory.write()

    return write
