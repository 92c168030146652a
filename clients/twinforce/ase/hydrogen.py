"""Heavier hydrogen, which allows longer time steps."""

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list

_HYDROGEN = 1
# How much longer than the sum of covalent radii a bond may be.
_STRETCH = 1.25


def repartition_hydrogen_mass(atoms: Atoms, mass: float = 3.0) -> None:
    """Give every hydrogen this mass, taken from the atom that it is bonded to.

    Molecules keep their masses, and every average that does not depend on velocities stays what
    it was; how fast things move does not (Feenstra, Hess, Berendsen, J. Comput. Chem. 20, 786
    (1999)). Momenta are left alone: call it before velocities are drawn.

    Args:
        atoms: Changed in place.
        mass: Of each hydrogen, in amu.

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
    if too_light := [each for each in partners.values() if masses[each] < mass]:
        index = min(too_light)
        raise ValueError(
            f"mass: hydrogens of {mass} amu would leave {masses[index]:.3f} amu to atom {index} "
            f"({atoms.symbols[index]})"
        )
    atoms.set_masses(masses)


def _partners(atoms: Atoms) -> dict[int, int]:
    """Return the nearest bonded atom that is no hydrogen, for each hydrogen."""
    hydrogens = np.flatnonzero(atoms.numbers == _HYDROGEN)
    first, second, distances = neighbor_list("ijd", atoms, natural_cutoffs(atoms, mult=_STRETCH))
    is_bond = (atoms.numbers[first] == _HYDROGEN) & (atoms.numbers[second] != _HYDROGEN)
    partners: dict[int, int] = {}
    for bond in sorted(np.flatnonzero(is_bond), key=lambda bond: float(distances[bond])):
        partners.setdefault(int(first[bond]), int(second[bond]))
    if alone := [index for index in hydrogens.tolist() if index not in partners]:
        raise ValueError(f"atoms: expected a heavier atom bonded to hydrogen {alone[0]}, got none")
    return partners
