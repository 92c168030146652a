"""The drift of energies that should be constant."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinforce.md.instants import Instant

_N_BLOCKS = 10


@dataclass(frozen=True, slots=True)
class Drift:
    """The rate at which an energy changes, with its standard error, in meV/atom/ps."""

    rate: float
    error: float


def energy_drift(run: Sequence[Instant], n_atoms: int) -> Drift | None:
    """Return the drift of the total energy of a run; see `fit_drift`."""
    times = np.array([state.time_fs for state in run])
    return fit_drift(times, np.array([state.total_energy for state in run]), n_atoms)


def conserved_drift(run: Sequence[Instant], n_atoms: int) -> Drift | None:
    """Return the drift of the conserved energy of a run; see `fit_drift`.

    It measures the energy that errors of forces and time step add, also with a thermostat.
    """
    times = np.array([state.time_fs for state in run])
    return fit_drift(times, np.array([state.conserved_energy for state in run]), n_atoms)


def fit_drift(
    times_fs: NDArray[np.float64], total_energies: NDArray[np.float64], n_atoms: int
) -> Drift | None:
    """Fit a line to the total energy, averaged over ten blocks of a run.

    Blocks are long compared with the oscillations of the total energy, so that the scatter about
    the line gives the standard error of its slope.

    Args:
        times_fs: Evenly spaced times in fs, shape [n].
        total_energies: Energies of the whole system in eV, shape [n].
        n_atoms: Number of atoms in the system.

    Returns:
        The drift, or None if the run has fewer than two states per block.
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
