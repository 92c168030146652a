"""Small systems for tests."""

import numpy as np

from twinforce_proto import System


def molecule(n_atoms=3, seed=0, element=18):
    """Return atoms at least 3 Å apart, in open space."""
    generator = np.random.default_rng(seed)
    return System(np.full(n_atoms, element), _lattice(n_atoms) + _noise(generator, n_atoms))


def crystal(n_atoms=8, seed=0, element=18):
    """Return atoms at least 3 Å apart, in a periodic cell."""
    generator = np.random.default_rng(seed)
    length = 3.6 * np.ceil(n_atoms ** (1 / 3))
    positions = _lattice(n_atoms) + _noise(generator, n_atoms)
    return System(np.full(n_atoms, element), positions, np.eye(3) * length, pbc=True)


def _lattice(n_atoms):
    side = int(np.ceil(n_atoms ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1)
    return 3.6 * grid.reshape(-1, 3)[:n_atoms]


def _noise(generator, n_atoms):
    return generator.uniform(-0.15, 0.15, size=(n_atoms, 3))
