"""Dynamics of ASE that the service takes the steps of, instead of giving the forces for them."""

from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING

from twinforce.ase.calculator import TwinForceCalculator
from twinforce.ase.systems import system_of
from twinforce_dynamics.checkpoint import Checkpoint
from twinforce_dynamics.course import Snapshot
from twinforce_dynamics.mts import State
from twinforce_dynamics.start import Integrator, Start

if TYPE_CHECKING:
    from twinforce.ase.dynamics import MultipleTimeStepping


def propagate(
    dynamics: "MultipleTimeStepping", state: State | None, n_outer: int, interval: int
) -> Generator[Snapshot, None, None]:
    """Yield snapshots of dynamics, from where they are; the start first, if nothing is known yet.

    Args:
        dynamics: Whose calculator asks a service.
        state: Where they are; None: at atoms that were not evaluated yet.
        n_outer: Outer steps to take.
        interval: Of them from one snapshot to the next.

    Raises:
        ValueError: Their calculator asks none.
        ServiceError: What went wrong.
    """
    calculator = dynamics.atoms.calc
    if not isinstance(calculator, TwinForceCalculator):
        kind = type(calculator).__name__
        raise ValueError(f"calculator: expected TwinForceCalculator, got {kind}")
    info = calculator.info
    start = _start_of(dynamics, calculator)
    origin: Start | bytes = start
    if state is not None:
        step = dynamics.nsteps * dynamics.inner_steps
        origin = Checkpoint(info.name, info.sha256, start, state, step).to_bytes()
    stride = dynamics.inner_steps
    moving = calculator.client.propagate(
        origin, n_outer * stride, interval * stride, model=info.name
    )
    with closing(moving) as snapshots:
        yield from snapshots


def _start_of(dynamics: "MultipleTimeStepping", calculator: TwinForceCalculator) -> Start:
    atoms = dynamics.atoms
    integrator = Integrator(
        time_step=float(dynamics.dt),
        force_kind=dynamics.forces,
        inner_steps=dynamics.inner_steps,
        ensemble=dynamics.ensemble,
    )
    fixed = [int(place) for constraint in atoms.constraints for place in constraint.index]
    return Start(
        system_of(atoms, calculator.info),
        atoms.get_velocities(),
        integrator,
        masses=dynamics.masses[:, 0],
        fixed_atoms=fixed,
        random=dynamics.rng,
    )
