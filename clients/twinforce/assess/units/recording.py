"""The recordings of a simulation, in files of plain numbers that grow record by record.

rows.f64        one row per outer step, with the columns of the layout
positions.f32   positions of all atoms at some steps, not wrapped, in Å
velocities.f32  velocities of at most 256 atoms, more often, in ASE's unit
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from ase import Atoms, units

from twinforce.assess.analysis.statistics import Floats
from twinforce.md import Instant

_POSITIONS_FS = 20.0
_VELOCITIES_FS = 2.0
_MOST_ATOMS_WITH_VELOCITIES = 256
_COMMON_COLUMNS = ("energy", "kinetic_energy", "temperature", "conserved_energy", "rmse", "work")


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The contents of the recordings and the intervals between records.

    Attributes:
        symbols: Chemical symbols of the species, in the order of their temperatures.
        n_atoms: Number of atoms of the system.
        traced: Indices of the atoms whose velocities are recorded, shape [n].
        outer_fs: Time between rows, in fs.
        has_motion: True if positions and velocities are recorded.
        has_power: True if the power of the difference of both forces is recorded.
    """

    symbols: tuple[str, ...]
    n_atoms: int
    traced: Any
    outer_fs: float
    has_motion: bool
    has_power: bool = False

    @classmethod
    def of(
        cls, atoms: Atoms, outer_fs: float, *, has_motion: bool, has_power: bool = False
    ) -> Self:
        """Return the layout for these atoms."""
        by_number = sorted(set(zip(atoms.numbers.tolist(), atoms.symbols, strict=True)))
        traced = np.arange(len(atoms))
        if len(atoms) > _MOST_ATOMS_WITH_VELOCITIES:
            chosen = np.random.default_rng(0).permutation(len(atoms))
            traced = np.sort(chosen[:_MOST_ATOMS_WITH_VELOCITIES])
        symbols = tuple(symbol for _, symbol in by_number)
        return cls(symbols, len(atoms), traced, outer_fs, has_motion, has_power)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a row: energies in eV, temperatures in K, force differences in eV/Å.

        The power, if it is recorded, is in eV/fs.
        """
        temperatures = (f"temperature_{symbol}" for symbol in self.symbols)
        differences = (f"rmse_{symbol}" for symbol in self.symbols)
        return (*_COMMON_COLUMNS, *temperatures, *differences, *(["power"] * self.has_power))

    @property
    def position_interval(self) -> int:
        """Number of outer steps between recorded positions."""
        return max(int(_POSITIONS_FS / self.outer_fs), 1)

    @property
    def velocity_interval(self) -> int:
        """Number of outer steps between recorded velocities."""
        return max(int(_VELOCITIES_FS / self.outer_fs), 1)

    def row(self, instant: Instant, atoms: Atoms) -> list[float]:
        """Return the numbers of a row, for atoms that are in this instant."""
        disagreement = instant.disagreement
        unknown = float("nan")
        return [
            instant.energy,
            instant.kinetic_energy,
            instant.temperature_k,
            instant.conserved_energy,
            unknown if disagreement is None else disagreement.rmse,
            unknown if disagreement is None else disagreement.total_work,
            *(instant.species_temperatures[symbol] for symbol in self.symbols),
            *(
                unknown if disagreement is None else disagreement.species_rmse[symbol]
                for symbol in self.symbols
            ),
            *([power_of(atoms)] if self.has_power else []),
        ]


def power_of(atoms: Atoms) -> float:
    """Return the power of (conservative - direct forces) on moving atoms, in eV/fs."""
    prediction = atoms.calc.prediction
    difference = prediction.conservative_forces - prediction.direct_forces
    return float((difference * atoms.get_velocities()).sum() * units.fs)


class Recorder:
    """A writer that appends to the recordings of a simulation from a given step.

    Later records, left by an interrupted attempt, are cut off.
    """

    def __init__(self, directory: Path, layout: Layout, n_steps: int, *, is_begun: bool) -> None:
        """Open the files.

        Args:
            directory: Folder of the files.
            layout: Layout of the records.
            n_steps: Number of outer steps taken so far.
            is_begun: True if those steps have been recorded.

        Raises:
            ValueError: The files hold fewer records than that.
        """
        self._layout = layout
        self._files: list[IO[bytes]] = []
        self._n_recorded = n_steps if is_begun else -1
        n_done = n_steps + 1 if is_begun else 0
        self._rows = self._open(directory / "rows.f64", 8 * len(layout.columns), n_done)
        if layout.has_motion:
            n_positions = -(-n_done // layout.position_interval)
            n_velocities = -(-n_done // layout.velocity_interval)
            self._positions = self._open(
                directory / "positions.f32", 12 * layout.n_atoms, n_positions
            )
            self._velocities = self._open(
                directory / "velocities.f32", 12 * len(layout.traced), n_velocities
            )

    @property
    def has_records(self) -> bool:
        """True once a state has been recorded."""
        return self._n_recorded >= 0

    def record(self, n_steps: int, instant: Instant, atoms: Atoms) -> None:
        """Append the records of a step, unless they are there already."""
        if n_steps <= self._n_recorded:
            return
        self._n_recorded = n_steps
        self._rows.write(np.array(self._layout.row(instant, atoms)).tobytes())
        if not self._layout.has_motion:
            return
        if n_steps % self._layout.position_interval == 0:
            self._positions.write(atoms.positions.astype(np.float32).tobytes())
        if n_steps % self._layout.velocity_interval == 0:
            velocities = atoms.get_velocities()[self._layout.traced]
            self._velocities.write(velocities.astype(np.float32).tobytes())

    def flush(self) -> None:
        """Flush all files."""
        for file in self._files:
            file.flush()

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def _open(self, path: Path, record_bytes: int, n_records: int) -> IO[bytes]:
        path.touch()
        file = path.open("r+b")
        self._files.append(file)
        size = path.stat().st_size
        if size < record_bytes * n_records:
            self.close()
            raise ValueError(f"{path}: expected {record_bytes * n_records} bytes, got {size}")
        file.truncate(record_bytes * n_records)
        file.seek(0, 2)
        return file


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """The recordings of a simulation, for reading.

    Attributes:
        directory: Folder of the files.
        layout: Layout of the records.
    """

    directory: Path
    layout: Layout

    def series(self, names: Sequence[str] | None = None) -> dict[str, Floats]:
        """Return columns by name, each of shape [n_steps + 1]."""
        columns = self.layout.columns
        table = np.fromfile(self.directory / "rows.f64").reshape(-1, len(columns))
        return {name: table[:, columns.index(name)] for name in names or columns}

    def positions(self) -> Floats:
        """Return positions in Å, shape [n_times, n_atoms, 3]."""
        flat = np.fromfile(self.directory / "positions.f32", np.float32)
        return flat.reshape(-1, self.layout.n_atoms, 3).astype(np.float64)

    def velocities(self) -> Floats:
        """Return velocities of the traced atoms in ASE's unit, shape [n_times, n_traced, 3]."""
        flat = np.fromfile(self.directory / "velocities.f32", np.float32)
        return flat.reshape(-1, len(self.layout.traced), 3).astype(np.float64)
