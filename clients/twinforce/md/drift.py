"""How fast energies drift that should not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinforce.md.instants import Instant

_N_BLOCKS = 10


@dataclass(frozen=True, slots=True)
class Drift:
    """How fast an energy changes, with its standard error, in meV/atom/ps."""

    rate: float
    error: float


def energy_drift(run: Sequence[Instant], n_atoms: int) -> Drift | None:
    """Return how fast the total energy of a run changes; see `fit_drift`."""
    times = np.array([each.time_fs for each in run])
    return fit_drift(times, np.array([each.total_energy for each in run]), n_atoms)


def conserved_drift(run: Sequence[Instant], n_atoms: int) -> Drift | None:
    """Return how fast the conserved energy of a run changes; see `fit_drift`.

    That is what the error of forces and time step adds, whatever the thermostat takes away.
    """
    times = np.array([each.time_fs for each in run])
    return fit_drift(times, np.array([each.conserved_energy for each in run]), n_atoms)


def fit_drift(
    times_fs: NDArray[np.float64], total_energies: NDArray[np.float64], n_atoms: int
) -> Drift | None:
    """Fit a line to the total energy, averaged over ten blocks of a run.

    Blocks are long against the vibrations of the total energy, so that the scatter about the
    line says how sure its slope is. None where the run is too short for that.

    Args:
        times_fs: Evenly spaced, in fs, shape [n].
        total_energies: Of the whole system, in eV, shape [n].
        n_atoms: To divide by.
    """
    n_per_block = len(times_fs) // _N_BLOCKS
    if n_per_block < 2:
        return None
    kept = slice(len(times_fs) - n_per_block * _N_BLOCKS, None)
    times = (times_fs[kept] * 1e-3).reshape(_N_BLOCKS, -1).mean(axis=1)
    means = (total_energies[kept] * 1e3 / n_atoms).reshape(_N_BLOCKS, -1).mean(axis=1)
    rate, offset = np.polyfit(times, means, 1)
    scatter = math.sqrt(np.sum((means - rate * times - offset) ** 2) / (_N_BLOCKS - 2))
    return Drift(float(rate), scatter / math.sqrt(np.sum((times - times.mean()) ** 2)))
