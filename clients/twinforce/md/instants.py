"""What is known of each moment of a run, and the log of it."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TextIO

from twinforce_dynamics.disagreement import Disagreement


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment of a run; energies in eV, of the whole system.

    Attributes:
        step: Inner steps since the start.
        time_fs: Since the start, in fs.
        energy: Potential.
        kinetic_energy: Of all motion.
        temperature_k: Of all atoms; the motion of the whole is no heat where it is kept.
        conserved_energy: The total energy, less what thermostat and barostat put in.
        species_temperatures: In K, by symbol.
        disagreement: Of both forces, where both drive.
        volume: In Å³; None where the system is not periodic in all directions.
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
        """Potential and kinetic energy together, in eV."""
        return self.energy + self.kinetic_energy


class LogWriter:
    """Writes instants as comma-separated values, each as it comes.

    Args:
        file: To write.
        has_header: Whether the file starts with one already, which says that rows follow.
    """

    def __init__(self, file: TextIO, *, has_header: bool = False) -> None:
        self._file = file
        self._rows = csv.writer(file)
        self._has_header = has_header

    def write(self, instant: Instant) -> None:
        """Write one row."""
        row = _row(instant)
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
