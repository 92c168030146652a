"""Atoms that come closer to each other than in any training data.

A network knows nothing about such distances: what it says of them grows without bound and may
attract. Below a distance R, the sum of a radius of each of the two elements, two things happen.

* The network sees a larger distance, never below 0.9 R, so that it extrapolates no further.
* The universal screened Coulomb potential of Ziegler, Biersack and Littmark (The Stopping and Range
  of Ions in Solids, 1985) is added, which ends smoothly at R, with `envelope` as w:

    E(r) = k Z_i Z_j / r · φ(r/a) · w(r/R)      a = 0.8854 a₀ / (Z_i^0.23 + Z_j^0.23)

If R is shorter than all distances in the training data, neither changes anything there, so that
both can be given to a trained network. Both kinds of forces contain the repulsion: its derivatives
are written out, since direct forces are evaluated without a graph.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from twinforce_models.potentials.hybrid_net.radial import envelope, envelope_slope

_COULOMB = 14.399645478  # e²/(4πε₀), in eV·Å
_SCREENING = 0.8854 * 0.529177210903  # in Å
# Factors and decays of the terms of φ.
_TERMS = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))


# The smallest distance that the network sees, in units of R.
_FLOOR = 0.9


class PairRepulsion(NamedTuple):
    """The repulsion of each atom from its neighbors.

    Attributes:
        energies: Half of the energy of each pair. Shape [n_atoms], in eV.
        repulsive_forces: Shape [n_atoms, 3], in eV/Å.
        strain_gradients: Volume times stress, half of each pair. Shape [n_atoms, 3, 3], in eV.
    """

    energies: Tensor
    repulsive_forces: Tensor
    strain_gradients: Tensor


class Repulsion(nn.Module):
    """The repulsion between atoms of given elements."""

    charges: Tensor
    radii: Tensor

    def __init__(self, elements: tuple[int, ...], radii: tuple[float, ...]) -> None:
        """Take the atomic number and the radius, in Å, of each element.

        Raises:
            ValueError: If there is not one positive radius for each element.
        """
        super().__init__()
        if len(radii) != len(elements) or not all(radius > 0 for radius in radii):
            raise ValueError(
                f"repulsion_radii: expected a positive radius for each of {len(elements)} "
                f"elements, got {list(radii)}"
            )
        for name, values in (("charges", elements), ("radii", radii)):
            buffer = torch.tensor(values, dtype=torch.float64)
            self.register_buffer(name, buffer, persistent=False)

    def seen_distances(self, kinds: Tensor, neighbors: Tensor, distances: Tensor) -> Tensor:
        """Return the distances as the network sees them: the same beyond R, at least 0.9 R below.

        The derivative falls smoothly from 1 at R to 0 at 0.8 R.

        Args:
            kinds: Index of the element of each atom, shape [n_atoms].
            neighbors: Index of each neighbor, shape [n_atoms, k].
            distances: Shape [n_atoms, k], in Å.
        """
        ends = self._ends(kinds, neighbors, distances.dtype)
        width = 2.0 * (1.0 - _FLOOR)
        x = distances / ends
        s = ((x - 1.0) / width + 1.0).clamp(0.0, 1.0)
        seen = _FLOOR + width * s**3 * (1.0 - 0.5 * s)
        return torch.where(x < 1.0, seen * ends, distances)

    def _ends(self, kinds: Tensor, neighbors: Tensor, dtype: torch.dtype) -> Tensor:
        """Return R of each pair."""
        radii = self.radii.to(dtype)[kinds]
        return radii[:, None] + radii[neighbors]

    def forward(self, kinds: Tensor, neighbors: Tensor, vectors: Tensor) -> PairRepulsion:
        """Return the repulsion of each atom from its neighbors.

        Args:
            kinds: Index of the element of each atom, shape [n_atoms].
            neighbors: Index of each neighbor, shape [n_atoms, k].
            vectors: From the atom to the neighbor, shape [n_atoms, k, 3], in Å.
        """
        r = ((vectors * vectors).sum(-1) + 1e-12).sqrt()
        charges, ends = self.charges.to(r.dtype)[kinds], self._ends(kinds, neighbors, r.dtype)
        powers = charges**0.23 / _SCREENING
        inverse_length = powers[:, None] + powers[neighbors]
        strength = (0.5 * _COULOMB) * charges[:, None] * charges[neighbors] / r
        screening, slope = torch.zeros_like(r), torch.zeros_like(r)
        for factor, decay in _TERMS:
            term = factor * torch.exp(-decay * inverse_length * r)
            screening, slope = screening + term, slope - decay * inverse_length * term
        weight, weight_slope = envelope(r / ends), envelope_slope(r / ends) / ends
        energies = strength * screening * weight
        derivative = strength * ((slope - screening / r) * weight + screening * weight_slope)
        gradients = (derivative / r).unsqueeze(-1) * vectors
        strain_gradients = (vectors.unsqueeze(-1) * gradients.unsqueeze(-2)).sum(1)
        return PairRepulsion(energies.sum(1), 2.0 * gradients.sum(1), strain_gradients)
