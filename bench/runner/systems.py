"""The systems that measurements evaluate, and their random displacements."""

from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np

from bench.runner.machine import ROOT
from twinforce import System

WATER = ROOT / "demo" / "water64.xyz"
# Largest displacement along an axis, in Å: about what a few steps of molecular dynamics do.
STEP = 0.01
# Distance of molecules of liquid water, and of atoms of liquid argon, on a cubic lattice, in Å.
_WATER_SPACING, _ARGON_SPACING = 3.106, 3.6
_MOLECULE = np.array([[0.0, 0.0, 0.0], [0.757, 0.586, 0.0], [-0.757, 0.586, 0.0]])


def read_system(path: Path = WATER) -> System:
    """Return the system in a file; by default, 64 molecules of liquid water."""
    atoms = ase.io.read(path)
    return System(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


def gas(n_atoms: int) -> System:
    """Return argon at the density of the liquid, on a lattice with random displacements."""
    generator = np.random.default_rng(0)
    side = int(np.ceil(n_atoms ** (1 / 3)))
    positions = _ARGON_SPACING * _grid(side, side, side)[:n_atoms]
    positions = positions + generator.uniform(-0.1, 0.1, (n_atoms, 3))
    return System(np.full(n_atoms, 18), positions, np.eye(3) * _ARGON_SPACING * side, pbc=True)


def water_box(*sides: int) -> System:
    """Return water molecules at the density of the liquid, in random orientations.

    Args:
        sides: Number of molecules along each of the three edges of the box.
    """
    generator = np.random.default_rng(0)
    centers = _WATER_SPACING * _grid(*sides)
    rotations, _ = np.linalg.qr(generator.normal(size=(len(centers), 3, 3)))
    atoms = centers[:, None] + np.einsum("ai,mij->maj", _MOLECULE, rotations)
    numbers = np.tile([8, 1, 1], len(centers))
    return System(numbers, atoms.reshape(-1, 3), _WATER_SPACING * np.diag(sides), pbc=True)


def shaken(system: System) -> Callable[[], System]:
    """Return a function that returns the system with other displacements at each call."""
    generator = np.random.default_rng(0)
    shape = system.positions.shape

    def shake() -> System:
        return system.moved(system.positions + generator.uniform(-STEP, STEP, shape))

    return shake


def _grid(*sides: int) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), axis=-1).reshape(-1, 3)
