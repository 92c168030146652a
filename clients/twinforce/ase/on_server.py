"""Dynamics of ASE that the service takes the steps of, instead of giving the forces for them."""

from collections.abc import Generator
from contextlib import closing

import numpy as np
from ase import Atoms

from twinforce.ase.calculator import TwinForceCalculator
from twinforce.ase.systems import system_of
from twinforce_dynamics.codec.checkpoint import Checkpoint
from twinforce_dynamics.start import Integrator, Start
from twinforce_dynamics.steps import State
from twinforce_dynamics.trajectory import Snapshot


def propagate(
    atoms: Atoms,
    integrator: Integrator,
    rng: np.random.Generator,
    at: tuple[State, int] | None,
    n_outer: int,
    interval: int,
) -> Generator[Snapshot, None, None]:
    """Yield snapshots of atoms that move; the start first, if it is not known yet.

    Args:
        atoms: Whose calculator asks a service.
        integrator: How they move.
        rng: Of their random numbers.
        at: Where they are, and how many inner steps they have taken; None: not evaluated yet.
        n_outer: Outer steps to take.
        interval: Of them from one snapshot to the next.

    Raises:
        ValueError: Their calculator asks none.
        ServiceError: What went wrong.
    """
    calculator = atoms.calc
    if not isinstance(calculator, TwinForceCalculator):
        kind = type(calculator).__name__
        raise ValueError(f"calculator: expected TwinForceCalculator, got {kind}")
    info, stride = calculator.info, integrator.stride
    start = Start(
        system_of(atoms, info),
        atoms.get_velocities(),
        integrator,
        masses=atoms.get_masses(),
        fixed_atoms=[int(place) for each in atoms.constraints for place in each.index],
        random=rng,
    )
    origin: Start | bytes = start
    if at is not None:
        origin = Checkpoint(info.name, info.sha256, start, *at).to_bytes()
    moving = calculator.client.propagate(
        origin, n_outer * stride, interval * stride, model=info.name
    )
    with closing(moving) as snapshots:
        yield from snapshots
