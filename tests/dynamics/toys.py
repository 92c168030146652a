"""Potentials in a few lines of numpy, with known forces, as force functions."""

from dataclasses import dataclass

import numpy as np

from twinforce_proto import Prediction


@dataclass
class Wells:
    """Atoms in separate wells, E = k/2 r² + q/4 r⁴; direct forces also swirl about the z axis.

    It counts its evaluations.
    """

    k: float = 1.0
    q: float = 0.3
    swirl: float = 0.0
    n_direct: int = 0
    n_hybrid: int = 0

    def direct(self, positions, _cell):
        self.n_direct += 1
        return Prediction(direct_forces=self._forces(positions) + self._swirl(positions))

    def hybrid(self, positions, _cell):
        self.n_hybrid += 1
        squares = (positions**2).sum(axis=1)
        forces = self._forces(positions)
        return Prediction(
            energy=float((self.k / 2 * squares + self.q / 4 * squares**2).sum()),
            conservative_forces=forces,
            direct_forces=forces + self._swirl(positions),
        )

    def _forces(self, positions):
        squares = (positions**2).sum(axis=1, keepdims=True)
        return -(self.k + self.q * squares) * positions

    def _swirl(self, positions):
        return self.swirl * np.cross([0.0, 0.0, 1.0], positions)


@dataclass
class Lattice:
    """Atoms without forces in an elastic cell, so that the distribution of the cell is known.

    E = k/8 |h hᵀ/L² - 1|² does not change when the cell rotates. The direct stress is wrong by a
    constant pressure.
    """

    k: float
    length: float
    wrong_pressure: float = 0.0

    def direct(self, positions, cell):
        wrong = self.wrong_pressure * np.eye(3)
        return Prediction(
            direct_forces=np.zeros_like(positions), direct_stress=self._stress(cell) - wrong
        )

    def hybrid(self, positions, cell):
        cheap = self.direct(positions, cell)
        return Prediction(
            energy=float(self.energy(cell)),
            conservative_forces=np.zeros_like(positions),
            direct_forces=cheap.direct_forces,
            conservative_stress=self._stress(cell),
            direct_stress=cheap.direct_stress,
        )

    def energy(self, cells):
        squares = (self._excess(cells) ** 2).sum(axis=(-2, -1))
        return self.k / 8 * squares

    def _excess(self, cells):
        return cells @ np.swapaxes(cells, -2, -1) / self.length**2 - np.eye(3)

    def _stress(self, cell):
        gradient = self.k / 2 * cell.T @ self._excess(cell) @ cell / self.length**2
        return gradient / abs(np.linalg.det(cell))


@dataclass
class Hills:
    """Atoms in a periodic cell that repel each other, E = 1/2 Σ A exp(-r²/2w²), and swirl."""

    height: float = 3.0
    width: float = 0.35
    swirl: float = 0.0

    def direct(self, positions, cell):
        vectors, weights = self._pairs(positions, cell)
        pulls = -weights[..., None] * vectors / self.width**2
        turns = self.swirl * weights[..., None] * np.cross([0.0, 0.0, 1.0], vectors)
        return Prediction(
            direct_forces=(pulls + turns).sum(axis=1),
            direct_stress=self._stress(vectors, pulls + turns, cell),
        )

    def hybrid(self, positions, cell):
        vectors, weights = self._pairs(positions, cell)
        pulls = -weights[..., None] * vectors / self.width**2
        cheap = self.direct(positions, cell)
        return Prediction(
            energy=float(weights.sum() / 2),
            conservative_forces=pulls.sum(axis=1),
            direct_forces=cheap.direct_forces,
            conservative_stress=self._stress(vectors, pulls, cell),
            direct_stress=cheap.direct_stress,
        )

    def _pairs(self, positions, cell):
        """Return the vectors to the nearest image of each other atom, and the energies of pairs."""
        vectors = positions[None] - positions[:, None]
        fractions = vectors @ np.linalg.inv(cell)
        vectors = (fractions - np.round(fractions)) @ cell
        weights = self.height * np.exp(-(vectors**2).sum(axis=-1) / (2 * self.width**2))
        np.fill_diagonal(weights, 0.0)
        return vectors, weights

    def _stress(self, vectors, pulls, cell):
        gradient = np.einsum("ija,ijb->ab", vectors, pulls) / 2
        return (gradient + gradient.T) / 2 / abs(np.linalg.det(cell))
