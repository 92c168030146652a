"""Both kinds of forces as two forces of OpenMM, for its integrators with multiple time stepping.

    with Client("grpc://127.0.0.1:8001") as client, client.stream("water") as stream:
        add_hybrid_forces(system, stream, system_of(atoms), inner_steps=4)
        integrator = MTSIntegrator(2 * femtosecond, [(0, 1), (1, 4)])

The integrator gives the correction of the force group 0, conservative minus direct forces, at each
outer step, and the direct forces of the group 1 at each inner one: the steps of
`twinforce.ase.MultipleTimeStepping`. OpenMM asks for the forces of the groups one after the other;
they come from one evaluation where both act.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinforce._client import Stream
from twinforce_dynamics.steps import check_inner_steps
from twinforce_proto import Prediction, System

__all__ = ["INNER_GROUP", "OUTER_GROUP", "add_hybrid_forces"]

OUTER_GROUP, INNER_GROUP = 0, 1
"""Force groups of the correction, and of the direct forces."""

_DIRECT = ("direct_forces",)
_BOTH = ("energy", "conservative_forces", "direct_forces")
_EV = 96.48533212331  # kJ/mol
_ANGSTROM = 0.1  # nm
_SAME_BOX = 1e-3  # Å, as files of PDB are rounded


def add_hybrid_forces(openmm_system: Any, stream: Stream, system: System, inner_steps: int) -> None:
    """Add the correction and the direct forces to a `System` of OpenMM, in two force groups.

    The energy of the potential is that of the correction, and the direct forces have none.

    Args:
        openmm_system: System of OpenMM, with a particle for each atom, in the same order.
        stream: Stream of a client, which must stay open.
        system: The atoms, and whether they are periodic. Where they are, its cell and the default
            periodic box vectors of OpenMM span the same lattice, within 0.001 Å.
        inner_steps: Steps of the inner group per step of the outer one, as the integrator takes
            them. Another number of them costs further evaluations and changes no forces.

    Raises:
        ValueError: The number of particles is another one, the default periodic box vectors are
            not those of `system` where it is periodic, or `inner_steps` is not a positive number.
        ImportError: OpenMM is missing, or older than 8.5.
    """
    check_inner_steps(inner_steps)
    if (n_particles := openmm_system.getNumParticles()) != len(system):
        raise ValueError(f"system: expected {n_particles} atoms, got {len(system)}")
    import openmm

    if not hasattr(openmm, "PythonForce"):
        raise ImportError(f"openmm: expected 8.5 or later, got {openmm.__version__}")
    _check_box(openmm_system, system)
    latest = _LatestForces(stream, system, int(inner_steps))
    for group, evaluate in ((OUTER_GROUP, latest.correction), (INNER_GROUP, latest.direct)):
        force = openmm.PythonForce(evaluate)
        force.setForceGroup(group)
        force.setUsesPeriodicBoundaryConditions(bool(system.pbc.any()))
        openmm_system.addForce(force)


def _check_box(openmm_system: Any, system: System) -> None:
    """Check that both have the same lattice; OpenMM may describe it by other, reduced vectors."""
    from openmm import unit

    vectors = openmm_system.getDefaultPeriodicBoxVectors()
    box = np.array([vector.value_in_unit(unit.angstrom) for vector in vectors])
    found, expected = box[system.pbc], system.cell[system.pbc]
    combinations = np.rint(found @ np.linalg.pinv(expected))
    is_basis = abs(abs(np.linalg.det(combinations)) - 1.0) < 0.5  # of no vectors, det is 1
    if not (is_basis and np.allclose(combinations @ expected, found, rtol=0.0, atol=_SAME_BOX)):
        raise ValueError(
            f"openmm_system: expected the box {system.cell.tolist()} Å of system, "
            f"got {box.tolist()} Å; set it with setDefaultPeriodicBoxVectors"
        )


class _LatestForces:
    """The forces at the latest coordinates that OpenMM has asked for.

    Args:
        stream: Stream of a client.
        system: The atoms.
        inner_steps: Number of new coordinates after which both kinds of forces act.
    """

    def __init__(self, stream: Stream, system: System, inner_steps: int) -> None:
        self._stream = stream
        self._system = system
        self._inner_steps = inner_steps
        self._prediction = Prediction()
        self._n_since_both = 0

    def correction(self, state: Any) -> tuple[float, NDArray[np.float64]]:
        """Return the energy in kJ/mol, and conservative minus direct forces in kJ/mol/nm."""
        self._move(state)
        if self._prediction.conservative_forces is None:
            self._evaluate(_BOTH)
        found = self._prediction
        assert found.energy is not None
        assert found.conservative_forces is not None
        assert found.direct_forces is not None
        difference = found.conservative_forces - found.direct_forces
        return found.energy * _EV, difference * (_EV / _ANGSTROM)

    def direct(self, state: Any) -> tuple[float, NDArray[np.float64]]:
        """Return no energy, and the direct forces in kJ/mol/nm."""
        self._move(state)
        if self._prediction.direct_forces is None:
            is_outer = self._n_since_both + 1 >= self._inner_steps
            self._evaluate(_BOTH if is_outer else _DIRECT)
        assert self._prediction.direct_forces is not None
        return 0.0, self._prediction.direct_forces * (_EV / _ANGSTROM)

    def _move(self, state: Any) -> None:
        """Forget the forces if the coordinates are others than the latest ones."""
        from openmm import unit

        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        cell = self._system.cell
        if self._system.pbc.any():
            cell = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom)
        is_same = np.array_equal(positions, self._system.positions) and np.array_equal(
            cell, self._system.cell
        )
        if not is_same:
            self._system = self._system.moved(np.array(positions), np.array(cell))
            self._prediction = Prediction()

    def _evaluate(self, outputs: tuple[str, ...]) -> None:
        self._n_since_both = 0 if outputs is _BOTH else self._n_since_both + 1
        self._prediction = self._stream.predict(self._system, outputs)
