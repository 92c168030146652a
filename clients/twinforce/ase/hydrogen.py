"""Hydrogen mass repartitioning, which allows longer time steps."""

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list

_HYDROGEN = 1
# Longest bond, in sums of covalent radii.
_STRETCH = 1.25


def repartition_hydrogen_mass(atoms: Atoms, mass: float = 3.0) -> None:
    """Set the mass of every hydrogen, and take the difference from the atom it is bonded to.

    The masses of molecules stay the same, and so does every average that does not depend on
    velocities; dynamical properties change (Feenstra, Hess, Berendsen, J. Comput. Chem. 20, 786
    (1999)). Momenta are not changed: call this before drawing velocities.

    Args:
        atoms: Atoms, changed in place.
        mass: Mass of each hydrogen, in amu.

    Raises:
        ValueError: A hydrogen has no heavier neighbor within 1.25 times the sum of the covalent
            radii, or its neighbor would become lighter than the hydrogen.
    """
    if not 0.0 < mass < float("inf"):
        raise ValueError(f"mass: expected a positive number, got {mass}")
    masses = atoms.get_masses()
    partners = _partners(atoms)
    for hydrogen, partner in partners.items():
        masses[partner] -= mass - masses[hydrogen]
        masses[hydrogen] = mass
    if too_light := [partner for partner in partners.values() if masses[partner] < mass]:
        index = min(too_light)
        raise ValueError(
            f"mass: hydrogens of {mass} amu would leave {masses[index]:.3f} amu to atom {index} "
            f"({atoms.symbols[index]})"
        )
    atoms.set_masses(masses)


def _partners(atoms: Atoms) -> dict[int, int]:
    """Return the nearest bonded atom other than hydrogen, for each hydrogen."""
    hydrogens = np.flatnonzero(atoms.numbers == _HYDROGEN)
    first, second, distances = neighbor_list("ijd", atoms, natural_cutoffs(atoms, mult=_STRETCH))
    is_bond = (atoms.numbers[first] == _HYDROGEN) & (atoms.numbers[second] != _HYDROGEN)
    partners: dict[int, int] = {}
    for bond in sorted(np.flatnonzero(is_bond), key=lambda bond: float(distances[bond])):
        partners.setdefault(int(first[bond]), int(second[bond]))
    if unbonded := [index for index in hydrogens.tolist() if index not in partners]:
        raise ValueError(
            f"atoms: expected a heavier atom bonded to hydrogen {unbonded[0]}, got none"
        )
    return partners
