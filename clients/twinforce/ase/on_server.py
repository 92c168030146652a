"""Molecular dynamics of ASE atoms with the steps taken on the server."""

from collections.abc import Generator, Sequence
from contextlib import closing

import numpy as np
from ase import Atoms

from twinforce._systems import system_of
from twinforce.ase.calculator import TwinForceCalculator
from twinforce_dynamics.codec.checkpoint import Checkpoint
from twinforce_dynamics.start import Integrator, Start
from twinforce_dynamics.steps import State
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import ModelChangedError


def propagate(
    atoms: Atoms,
    fixed_atoms: Sequence[int],
    integrator: Integrator,
    rng: np.random.Generator,
    current: tuple[State, int] | None,
    n_outer: int,
    interval: int,
) -> Generator[Snapshot, None, None]:
    """Run dynamics of atoms on the server and yield snapshots.

    Args:
        atoms: Atoms whose calculator is a `TwinForceCalculator`.
        fixed_atoms: Indices of atoms that do not move.
        integrator: Time step, forces and ensemble.
        rng: Random numbers to continue with.
        current: Current state and the number of inner steps taken before it. None if the atoms
            were not evaluated yet; then the first snapshot is the start.
        n_outer: Number of outer steps to take.
        interval: Outer steps between snapshots.

    Raises:
        ValueError: The calculator uses no service.
        ModelChangedError: The service has other weights than the calculator began with.
        ServiceError: The run failed.
    """
    calculator = atoms.calc
    if not isinstance(calculator, TwinForceCalculator):
        kind = type(calculator).__name__
        raise ValueError(f"calculator: expected TwinForceCalculator, got {kind}")
    info, stride = calculator.info, integrator.stride
    start = Start(
        system_of(atoms),
        atoms.get_velocities(),
        integrator,
        masses=atoms.get_masses(),
        fixed_atoms=fixed_atoms,
        random=rng,
    )
    origin: Start | bytes = start
    if current is not None:
        state, step = current
        origin = Checkpoint(info.name, info.sha256, start, state, step).to_bytes()
    run = calculator.client.propagate(origin, n_outer * stride, interval * stride, model=info.name)
    try:
        with closing(run) as snapshots:
            for snapshot in snapshots:
                calculator.check_weights(snapshot.provenance)
                yield snapshot
    except ModelChangedError:
        calculator.find_model()  # says how to go on, or notes that this is allowed
        raise
