"""What the dynamics can move, and errors that say why not."""

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from twinforce_dynamics.ensembles import NPT, Ensemble
from twinforce_dynamics.steps import Floats, ForceChoice
from twinforce_dynamics.trajectory import outputs_of
from twinforce_proto import UnsupportedOutputError


def check_numbers(forces: str, timestep: float, inner_steps: int) -> None:
    """Refuse what is no way to step.

    Raises:
        ValueError: Says which argument, what was expected and what came.
    """
    if forces not in ("conservative", "direct", "hybrid"):
        raise ValueError(f"forces: expected 'hybrid', 'conservative' or 'direct', got {forces!r}")
    if not 0.0 < timestep < float("inf"):
        raise ValueError(f"timestep: expected a positive number, got {timestep!r}")
    if inner_steps != int(inner_steps) or inner_steps < 1:
        raise ValueError(f"inner_steps: expected a whole number, at least 1, got {inner_steps!r}")


def check_atoms(atoms: Atoms, ensemble: Ensemble) -> None:
    """Refuse atoms that cannot be moved in this ensemble.

    Raises:
        ValueError: They are constrained by anything but FixAtoms, have no mass, or, where the
            pressure is constant, are not periodic in all directions or partly fixed.
    """
    if not isinstance(atoms, Atoms):
        raise TypeError(f"atoms: expected Atoms, got {type(atoms).__name__}")
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            kind = type(constraint).__name__
            raise ValueError(f"constraints: expected FixAtoms only, got {kind}")
    if not (atoms.get_masses() > 0.0).all():
        index = int(np.argmin(atoms.get_masses()))
        raise ValueError(
            f"masses: expected positive ones, got {atoms.get_masses()[index]} of atom {index}"
        )
    if isinstance(ensemble, NPT):
        _check_cell(atoms)


def check_outputs(offered: frozenset[str], forces: ForceChoice, ensemble: Ensemble) -> None:
    """Refuse a model that lacks what is asked of it at any step.

    Raises:
        UnsupportedOutputError: Says what it lacks.
    """
    if lacking := sorted(outputs_of(forces, ensemble)[1] - offered):
        what = "at constant pressure" if isinstance(ensemble, NPT) else "forces"
        raise UnsupportedOutputError(
            f"{forces} {what}: expected a model with {', '.join(lacking)}; it has "
            f"{', '.join(sorted(offered))}",
            field="outputs",
        )


def mobility_of(atoms: Atoms) -> Floats | None:
    """Return 1 for atoms that move and 0 for fixed ones, shape [n_atoms, 1]; None: all move."""
    if not atoms.constraints:
        return None
    mobile = np.ones((len(atoms), 1))
    for constraint in atoms.constraints:
        mobile[constraint.index] = 0.0
    if not mobile.any():
        raise ValueError("constraints: expected an atom that can move, got all of them fixed")
    return mobile


def _check_cell(atoms: Atoms) -> None:
    if not atoms.pbc.all():
        raise ValueError(
            "pbc: expected a system that is periodic in all three directions at constant "
            f"pressure, got {atoms.pbc.tolist()}"
        )
    if atoms.constraints:
        raise ValueError(
            "constraints: expected none at constant pressure, where fixed atoms would have to move "
            "with the cell; got FixAtoms"
        )
