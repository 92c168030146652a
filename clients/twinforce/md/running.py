"""One loop over the steps of a run."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from twinforce.md.instants import Instant
from twinforce.md.settings import MDSettings, ensemble_of


def molecular_dynamics(
    atoms: Any, settings: MDSettings, restart: Path | str | None = None
) -> Iterator[Instant]:
    """Move atoms that have a calculator; yield the start and then every outer step.

    Velocities that the atoms have are kept; otherwise they are drawn, without net momentum.

    Args:
        atoms: Moved in place.
        settings: How.
        restart: A file that `MultipleTimeStepping.save` wrote, of the same atoms and settings, to
            go on from; steps are counted on, up to `n_steps` in all.
    """
    yield from follow(dynamics_of(atoms, settings, restart), settings)


def dynamics_of(atoms: Any, settings: MDSettings, restart: Path | str | None = None) -> Any:
    """Return the `MultipleTimeStepping` of these settings; see `molecular_dynamics`."""
    from ase import units

    from twinforce.ase import MultipleTimeStepping

    rng = np.random.default_rng(settings.seed)
    if not atoms.has("momenta"):
        draw_velocities(atoms, settings.temperature_k, rng)
    dynamics = MultipleTimeStepping(
        atoms,
        settings.time_step_fs * units.fs,
        inner_steps=settings.inner_steps,
        ensemble=ensemble_of(settings),
        forces=settings.forces,
        rng=rng,
    )
    if restart is not None:
        dynamics.restore(restart)
    return dynamics


def follow(dynamics: Any, settings: MDSettings) -> Iterator[Instant]:
    """Run dynamics to the end of these settings; yield where they are and every outer step."""
    n_outer = math.ceil(settings.n_steps / dynamics.inner_steps)
    for _ in dynamics.irun(max(n_outer - dynamics.get_number_of_steps(), 0)):
        yield _instant(dynamics, settings.time_step_fs)


def follow_on_server(dynamics: Any, settings: MDSettings, interval: int) -> Iterator[Instant]:
    """Run dynamics on the server to the end of these settings.

    Args:
        dynamics: A `MultipleTimeStepping`, restored or not.
        settings: With which it was made.
        interval: Outer steps between what is yielded, counted from the start of the whole run; the
            first one, and the last one, are yielded too.
    """
    n_done = dynamics.get_number_of_steps()
    n_outer = math.ceil(settings.n_steps / dynamics.inner_steps)
    if n_done:
        yield _instant(dynamics, settings.time_step_fs)
    while (n_left := n_outer - dynamics.get_number_of_steps()) > 0:
        ahead = min(-dynamics.get_number_of_steps() % interval or n_left, n_left)
        for _ in dynamics.irun_on_server(ahead, interval):
            yield _instant(dynamics, settings.time_step_fs)


def draw_velocities(atoms: Any, temperature_k: float, rng: np.random.Generator) -> None:
    """Draw velocities from the Maxwell-Boltzmann distribution, less the motion of the whole."""
    from ase import units

    masses = atoms.get_masses()[:, None]
    spread = np.sqrt(units.kB * temperature_k / masses)
    velocities = spread * rng.standard_normal((len(atoms), 3))
    if len(atoms) > 1:
        velocities -= (masses * velocities).sum(axis=0) / masses.sum()
    atoms.set_velocities(velocities)


def _instant(dynamics: Any, time_step_fs: float) -> Instant:
    step = dynamics.get_number_of_steps() * dynamics.inner_steps
    return Instant(
        step=step,
        time_fs=step * time_step_fs,
        energy=dynamics.energy,
        kinetic_energy=dynamics.kinetic_energy,
        temperature_k=dynamics.temperature_k,
        conserved_energy=dynamics.conserved_energy(),
        species_temperatures=dynamics.species_temperatures,
        disagreement=dynamics.disagreement,
        volume=dynamics.volume,
    )
