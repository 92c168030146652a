"""Construction of dynamics from settings, and loops over their steps."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from twinforce.md.columns import take_velocities
from twinforce.md.instants import Instant
from twinforce.md.settings import MDSettings, ensemble_of


def molecular_dynamics(
    atoms: Any, settings: MDSettings, restart: Path | str | None = None
) -> Iterator[Instant]:
    """Run molecular dynamics; yield the start and then the state after every outer step.

    If the atoms have no velocities, they are drawn, without net momentum. Velocities in a column
    of another name, such as `vel`, are used; see `twinforce.md.columns`.

    Args:
        atoms: Atoms with a calculator, moved in place.
        settings: Settings of the dynamics.
        restart: A file that `MultipleTimeStepping.save` wrote with the same atoms and settings,
            to continue from. Its steps count toward the `n_steps` of the settings.
    """
    yield from follow(dynamics_of(atoms, settings, restart), settings)


def dynamics_of(atoms: Any, settings: MDSettings, restart: Path | str | None = None) -> Any:
    """Return a `MultipleTimeStepping` with these settings; see `molecular_dynamics`."""
    from ase import units

    from twinforce.ase import MultipleTimeStepping

    rng = np.random.default_rng(settings.seed)
    if take_velocities(atoms) is None:
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


def n_outer_steps(dynamics: Any, settings: MDSettings) -> int:
    """Return the number of outer steps of a whole run, which takes at least `n_steps`."""
    inner_steps: int = dynamics.inner_steps
    return math.ceil(settings.n_steps / inner_steps)


def follow(dynamics: Any, settings: MDSettings) -> Iterator[Instant]:
    """Run dynamics until `n_steps` are taken; yield the state now and after every outer step."""
    n_outer = n_outer_steps(dynamics, settings)
    for _ in dynamics.irun(max(n_outer - dynamics.get_number_of_steps(), 0)):
        yield _instant(dynamics, settings.time_step_fs)


def follow_on_server(
    dynamics: Any, settings: MDSettings, interval: int, *, is_restored: bool = False
) -> Iterator[Instant]:
    """Run dynamics on the server until `n_steps` are taken.

    Args:
        dynamics: A `MultipleTimeStepping`, which may have been restored.
        settings: The settings that it was made with.
        interval: Outer steps between yielded states, counted from the start of the whole run. The
            first and the last state are always yielded.
        is_restored: True if the dynamics was restored before its first step, so that its state
            need not be evaluated.
    """
    n_done = dynamics.get_number_of_steps()
    n_outer = n_outer_steps(dynamics, settings)
    if n_done or is_restored:
        yield _instant(dynamics, settings.time_step_fs)
    while (n_left := n_outer - dynamics.get_number_of_steps()) > 0:
        n_next = min(-dynamics.get_number_of_steps() % interval or n_left, n_left)
        for _ in dynamics.irun_on_server(n_next, interval):
            yield _instant(dynamics, settings.time_step_fs)


def draw_velocities(atoms: Any, temperature_k: float, rng: np.random.Generator) -> None:
    """Draw Maxwell-Boltzmann velocities, without motion of the center of mass if all can move.

    Raises:
        ValueError: A mass is not a positive, finite number, or there is a constraint other than
            FixAtoms.
    """
    from ase import units

    from twinforce.ase.checks import check_masses, mobility_of

    check_masses(atoms)
    masses = atoms.get_masses()[:, None]
    spread = np.sqrt(units.kB * temperature_k / masses)
    velocities = spread * rng.standard_normal((len(atoms), 3))
    if len(atoms) > 1 and mobility_of(atoms) is None:
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
