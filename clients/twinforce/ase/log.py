"""The text log of the dynamics, with one line per outer step."""

import weakref
from pathlib import Path
from typing import IO, Any

from ase import units
from ase.utils import IOContext

_DIGITS = {"T/K": 1, "V/Å³": 2}


class StepLog(IOContext):  # type: ignore[misc]
    """A log of time, energies, temperature, the conserved energy and the force disagreement.

    Args:
        dynamics: The dynamics to log, kept by a weak reference.
        file: A file name, an open file or "-" for standard output.
        comm: The communicator of ASE; only its first process writes.
    """

    def __init__(self, dynamics: Any, file: IO[str] | str | Path, comm: Any) -> None:
        self._dynamics = weakref.proxy(dynamics)
        self._file = self.openfile(file=file, mode="a", comm=comm)
        self._header: list[str] = []

    def __call__(self) -> None:
        """Write a line, after a header if the quantities are not those of the last line."""
        row = self._row()
        if self._header != list(row):
            self._header = list(row)
            self._write(self._header)
        self._write([f"{value:.{_DIGITS.get(name, 4)}f}" for name, value in row.items()])

    def _row(self) -> dict[str, float]:
        dynamics = self._dynamics
        row = {
            "time/ps": dynamics.get_time() / (1000.0 * units.fs),
            "Epot/eV": dynamics.energy,
            "Ekin/eV": dynamics.kinetic_energy,
            "conserved/eV": dynamics.conserved_energy(),
            "T/K": dynamics.temperature_k,
        }
        if dynamics.volume is not None:
            row["V/Å³"] = dynamics.volume
        if (disagreement := dynamics.disagreement) is not None:
            for symbol, rmse in disagreement.species_rmse.items():
                row[f"ΔF({symbol})"] = rmse
            row["work/eV"] = disagreement.total_work
        return row

    def _write(self, cells: list[str]) -> None:
        self._file.write(" ".join(f"{cell:>13}" for cell in cells) + "\n")
        self._file.flush()
