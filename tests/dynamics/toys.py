"""Potentials in a few lines of numpy, whose forces are known, as force functions."""

from dataclasses import dataclass

import numpy as np

from twinforce_proto import Prediction


@dataclass
class Wells:
    """Each atom in a well of its own, E = k/2 r² + q/4 r⁴; direct forces turn about z as well.

    Counts what it was asked for.
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
