"""Small systems of several kinds, as ASE atoms and as systems of ours."""

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from twinforce_proto import System


def periodic():
    """Return crystals and a liquid-like box, of different sizes, displaced from symmetry."""
    copper = bulk("Cu", "fcc", a=3.61, cubic=True).repeat((1, 1, 2))
    silicon = bulk("Si", "diamond", a=5.43, cubic=True)
    salt = bulk("NaCl", "rocksalt", a=5.64).repeat((2, 2, 1))
    salt.positions += 7.3  # outside of its cell, which is not orthogonal
    found = {"Cu": copper, "Si": silicon, "NaCl": salt, "water": water()}
    return {name: displaced(atoms) for name, atoms in found.items()}


def open_systems():
    """Return a molecule and an atom alone."""
    return {"ethanol": displaced(molecule("CH3CH2OH")), "atom": Atoms("O")}


def slab():
    """Return a slab that is open in z, and the same slab with a vacuum in a periodic cell."""
    atoms = displaced(fcc111("Cu", (2, 2, 3), a=3.61, vacuum=8.0))
    atoms.pbc = [True, True, False]
    padded = atoms.copy()
    padded.pbc = True
    return atoms, padded


def water():
    box = molecule("H2O")
    box.cell, box.pbc = np.diag([3.1, 3.1, 3.2]), True
    box = box.repeat((2, 2, 2))
    box.rattle(0.1, seed=5)
    return box


def displaced(atoms):
    atoms = atoms.copy()
    atoms.rattle(0.08, seed=3)
    return atoms


def ours(atoms):
    """Return ASE atoms as a system."""
    return System(atoms.numbers, atoms.positions, np.array(atoms.cell), atoms.pbc)
