"""Molecular dynamics with ASE: one loop for the command line, demos and scripts."""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
from numpy.typing import NDArray

Ensemble = Literal["nve", "langevin", "bussi"]

_N_BLOCKS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class MDSettings:
    """How to move.

    Attributes:
        ensemble: "nve", or the thermostat: "langevin", or "bussi" (stochastic velocity
            rescaling, which leaves the dynamics nearly alone).
        n_steps: How many steps.
        time_step_fs: In fs.
        temperature_k: Of the thermostat and of velocities that are drawn, in K.
        relaxation_fs: Of the thermostat, in fs.
        seed: Of all random numbers.
    """

    ensemble: Ensemble = "nve"
    n_steps: int = 1000
    time_step_fs: float = 0.5
    temperature_k: float = 300.0
    relaxation_fs: float = 100.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment of a run; energies in eV, of the whole system."""

    step: int
    time_fs: float
    energy: float
    kinetic_energy: float
    temperature_k: float

    @property
    def total_energy(self) -> float:
        """Potential and kinetic energy together, in eV."""
        return self.energy + self.kinetic_energy


@dataclass(frozen=True, slots=True)
class Drift:
    """How fast the total energy changes, with its standard error, in meV/atom/ps."""

    rate: float
    error: float


def molecular_dynamics(atoms: Any, settings: MDSettings) -> Iterator[Instant]:
    """Move atoms that have a calculator; yield the start and then every step.

    Velocities that the atoms have are kept; otherwise they are drawn, without net momentum.
    """
    rng = np.random.default_rng(settings.seed)
    if not atoms.has("momenta"):
        draw_velocities(atoms, settings.temperature_k, rng)
    dynamics = _dynamics(atoms, settings, rng)
    first = dynamics.get_number_of_steps()
    for _ in dynamics.irun(settings.n_steps):
        step = dynamics.get_number_of_steps() - first
        yield Instant(
            step=step,
            time_fs=step * settings.time_step_fs,
            energy=float(atoms.get_potential_energy()),
            kinetic_energy=float(atoms.get_kinetic_energy()),
            temperature_k=float(atoms.get_temperature()),
        )


def draw_velocities(atoms: Any, temperature_k: float, rng: np.random.Generator) -> None:
    """Draw velocities from the Maxwell-Boltzmann distribution, without net momentum."""
    from ase import units

    masses = atoms.get_masses()[:, None]
    spread = np.sqrt(units.kB * temperature_k / masses)
    velocities = spread * rng.standard_normal((len(atoms), 3))
    if len(atoms) > 1:
        velocities -= (masses * velocities).sum(axis=0) / masses.sum()
        velocities *= np.sqrt(len(atoms) / (len(atoms) - 1))
    atoms.set_velocities(velocities)


def energy_drift(run: Sequence[Instant], n_atoms: int) -> Drift | None:
    """Return how fast the total energy of a run changes; see `fit_drift`."""
    times = np.array([each.time_fs for each in run])
    return fit_drift(times, np.array([each.total_energy for each in run]), n_atoms)


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


class LogWriter:
    """Writes instants as comma-separated values, each as it comes."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._rows = csv.writer(file)
        self._rows.writerow(["step", "time_fs", "energy_ev", "kinetic_energy_ev", "temperature_k"])

    def write(self, instant: Instant) -> None:
        """Write one row."""
        self._rows.writerow(asdict(instant).values())
        self._file.flush()


def plot_runs(runs: Mapping[str, Iterable[Instant]], n_atoms: int, path: Path) -> None:
    """Plot the total energy and the temperature of runs against time, as an image.

    Args:
        runs: By their names in the legend.
        n_atoms: Of each.
        path: Of the image; the suffix says which kind.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for name, run in runs.items():
        instants = list(run)
        times = [each.time_fs * 1e-3 for each in instants]
        start = instants[0].total_energy
        change = [(each.total_energy - start) * 1e3 / n_atoms for each in instants]
        upper.plot(times, change, label=name, linewidth=1.2)
        lower.plot(times, [each.temperature_k for each in instants], label=name, linewidth=1.0)
    upper.set_ylabel("change of total energy (meV/atom)")
    lower.set_ylabel("temperature (K)")
    lower.set_xlabel("time (ps)")
    upper.legend(frameon=False)
    figure.savefig(path, dpi=150)


def _dynamics(atoms: Any, settings: MDSettings, rng: np.random.Generator) -> Any:
    from ase import units

    time_step = settings.time_step_fs * units.fs
    relaxation = settings.relaxation_fs * units.fs
    temperature = settings.temperature_k
    if settings.ensemble == "nve":
        from ase.md.verlet import VelocityVerlet

        return VelocityVerlet(atoms, time_step)
    if settings.ensemble == "bussi":
        from ase.md.bussi import Bussi

        return Bussi(atoms, time_step, temperature, relaxation, rng=rng)
    from ase.md.langevin import Langevin

    friction = 1.0 / relaxation
    return Langevin(
        atoms, time_step, temperature_K=temperature, friction=friction, fixcm=False, rng=rng
    )
