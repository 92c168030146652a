"""Checks of the atoms, numbers and model that the dynamics are given."""

import numpy as np
from ase import Atoms

from twinforce._systems import are_fixed
from twinforce_dynamics.ensembles import NPT, Ensemble
from twinforce_dynamics.steps import Floats, ForceChoice, check_inner_steps
from twinforce_dynamics.trajectory import outputs_of
from twinforce_proto import UnsupportedOutputError


def check_numbers(forces: str, timestep: float, inner_steps: int) -> None:
    """Check the arguments that define a step.

    Raises:
        ValueError: An argument is invalid; the message says which one.
    """
    if forces not in ("conservative", "direct", "hybrid"):
        raise ValueError(f"forces: expected 'hybrid', 'conservative' or 'direct', got {forces!r}")
    if not 0.0 < timestep < float("inf"):
        raise ValueError(f"timestep: expected a positive number, got {timestep!r}")
    check_inner_steps(inner_steps)


def check_atoms(atoms: Atoms, ensemble: Ensemble) -> None:
    """Check that the atoms can be moved in this ensemble.

    Raises:
        ValueError: There is a constraint other than FixAtoms, or an atom without mass. At constant
            pressure, also if the system is not periodic in all directions or has fixed atoms.
    """
    if not isinstance(atoms, Atoms):
        raise TypeError(f"atoms: expected Atoms, got {type(atoms).__name__}")
    mobility_of(atoms)
    check_masses(atoms)
    if isinstance(ensemble, NPT):
        _check_constant_pressure(atoms)


def check_masses(atoms: Atoms) -> None:
    """Check that every atom has a mass.

    Raises:
        ValueError: A mass is not a positive, finite number; the message names the atom.
    """
    masses = atoms.get_masses()
    wrong = ~((masses > 0.0) & (masses < np.inf))
    if wrong.any():
        index = int(np.argmax(wrong))
        raise ValueError(
            f"masses: expected positive numbers, got {masses[index]} of atom {index} "
            f"({atoms.symbols[index]}); set them with atoms.set_masses"
        )


def check_momenta(atoms: Atoms, momenta: Floats) -> None:
    """Check that the momenta of atoms are finite.

    Raises:
        ValueError: One is not; the message names the atom.
    """
    if not np.isfinite(momenta).all():
        index = int(np.argmin(np.isfinite(momenta).all(axis=1)))
        raise ValueError(
            f"momenta: expected finite numbers, got {momenta[index].tolist()} of atom {index} "
            f"({atoms.symbols[index]})"
        )


def check_outputs(offered: frozenset[str], forces: ForceChoice, ensemble: Ensemble) -> None:
    """Check that the model offers all outputs that the steps need.

    Raises:
        UnsupportedOutputError: Outputs are missing; the message says which ones.
    """
    if missing := sorted(outputs_of(forces, ensemble)[1] - offered):
        purpose = f"{forces} forces"
        if isinstance(ensemble, NPT):
            purpose += " at constant pressure"
        raise UnsupportedOutputError.expected(
            "outputs",
            f"a model with {', '.join(missing)} for {purpose}",
            f"one with {', '.join(sorted(offered))}",
        )


def mobility_of(atoms: Atoms) -> Floats | None:
    """Return 1 for mobile and 0 for fixed atoms, shape [n_atoms, 1]; None if all are mobile.

    Raises:
        ValueError: There is a constraint other than FixAtoms, or all atoms are fixed.
    """
    if not atoms.constraints:
        return None
    fixed = are_fixed(atoms)
    if fixed.all():
        raise ValueError("constraints: expected an atom that can move, got all of them fixed")
    return np.where(fixed, 0.0, 1.0)[:, None] if fixed.any() else None


def _check_constant_pressure(atoms: Atoms) -> None:
    if not atoms.pbc.all():
        raise ValueError(
            "pbc: expected a system that is periodic in all three directions at constant "
            f"pressure, got {atoms.pbc.tolist()}"
        )
    if mobility_of(atoms) is not None:
        raise ValueError(
            "constraints: expected none at constant pressure, where fixed atoms would have to move "
            "with the cell; got FixAtoms"
        )
