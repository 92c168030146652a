"""Observables of a run at one time, and their log."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TextIO

from twinforce_dynamics.disagreement import Disagreement


@dataclass(frozen=True, slots=True)
class Instant:
    """Observables of a run at one time; energies are in eV, of the whole system.

    Attributes:
        step: Number of inner steps since the start.
        time_fs: Time since the start, in fs.
        energy: Potential energy.
        kinetic_energy: Kinetic energy.
        temperature_k: Temperature in K, without the motion of the center of mass if it is
            conserved.
        conserved_energy: Total energy minus the energy supplied by thermostat and barostat.
        species_temperatures: Temperature of each species in K, by symbol.
        disagreement: Disagreement of both forces; None unless forces are hybrid.
        volume: Volume in Å³; None if the system is not periodic in all directions.
    """

    step: int
    time_fs: float
    energy: float
    kinetic_energy: float
    temperature_k: float
    conserved_energy: float
    species_temperatures: Mapping[str, float] = field(default_factory=dict)
    disagreement: Disagreement | None = None
    volume: float | None = None

    @property
    def total_energy(self) -> float:
        """Sum of potential and kinetic energy, in eV."""
        return self.energy + self.kinetic_energy


class LogWriter:
    """A writer of comma-separated values, which flushes each row.

    Args:
        file: Text file to write to.
        has_header: True if the file already has a header, so that only rows are written.
    """

    def __init__(self, file: TextIO, *, has_header: bool = False) -> None:
        self._file = file
        self._rows = csv.writer(file)
        self._has_header = has_header
        self._columns: list[str] = []

    def write(self, instant: Instant) -> None:
        """Write one row.

        Raises:
            ValueError: Its columns are not those of the rows before, as for other species.
        """
        row = _row(instant)
        self._columns = self._columns or list(row)
        if self._columns != list(row):
            expected, got = ", ".join(self._columns), ", ".join(row)
            raise ValueError(f"log: expected the columns {expected}; got {got}: begin another log")
        if not self._has_header:
            self._has_header = True
            self._rows.writerow(row)
        self._rows.writerow(row.values())
        self._file.flush()


def _row(instant: Instant) -> dict[str, float]:
    row = {
        "step": instant.step,
        "time_fs": instant.time_fs,
        "energy_ev": instant.energy,
        "kinetic_energy_ev": instant.kinetic_energy,
        "temperature_k": instant.temperature_k,
        "conserved_energy_ev": instant.conserved_energy,
    }
    if instant.volume is not None:
        row["volume_a3"] = instant.volume
    for symbol, temperature in instant.species_temperatures.items():
        row[f"temperature_{symbol}_k"] = temperature
    if instant.disagreement is not None:
        row["force_rmse_ev_per_a"] = instant.disagreement.rmse
        for symbol, rmse in instant.disagreement.species_rmse.items():
            row[f"force_rmse_{symbol}_ev_per_a"] = rmse
        row["correction_work_ev"] = instant.disagreement.total_work
    return row
