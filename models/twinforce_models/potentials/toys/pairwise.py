"""Pair potentials whose direct force has a known non-conservative part, shared by the toys.

    E = 1/2 Σ_ij V(u_ij)        f_i = Σ_j [2 V'(u_ij) d_ij + g(u_ij) b × d_ij]

    d_ij -> displacement from i to j,  u = d·d,  b -> swirl_axis,  g = swirl (1 - u/r_c²)³

The first term of the direct force is -dE/dr. The second is its deliberate error: it is not a
gradient, and since it is odd in d, it sums to zero over a system, so that removing the net force
changes nothing. Its axis is fixed in space, hence it does not rotate with the system.
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.neighbors.search import neighbor_list
from twinforce_models.potential import Heads
from twinforce_proto import OUTPUTS, System

Values = TypeVar("Values", NDArray[np.float64], Tensor)
Floats = NDArray[np.float64]


class RadialFunction(Protocol):
    """An energy as a function of the squared distance, with its derivatives."""

    def terms(self, u: Values) -> tuple[Values, Values, Values]:
        """Return V(u), V'(u) and V''(u) for squared distances, in eV, eV/Å², eV/Å⁴."""


def envelope(u: Values, cutoff: float) -> tuple[Values, Values, Values]:
    """Return (1 - u/r_c²)³ and its first two derivatives; all three vanish at u = r_c²."""
    square = cutoff * cutoff
    x = 1.0 - u / square
    return x**3, -3.0 / square * x**2, 6.0 / square**2 * x


def times(
    f: tuple[Values, Values, Values], g: tuple[Values, Values, Values]
) -> tuple[Values, Values, Values]:
    """Return a product and its first two derivatives from those of its factors."""
    return (
        f[0] * g[0],
        f[1] * g[0] + f[0] * g[1],
        f[2] * g[0] + 2.0 * f[1] * g[1] + f[0] * g[2],
    )


@dataclass(frozen=True, slots=True, eq=False)
class PairPotential:
    """A pair energy with a direct force of known error; supports every element and output.

    Attributes:
        radial: V(u); must vanish smoothly at the cutoff.
        cutoff: In Å.
        swirl: Strength of the error of the direct force, in eV/Å².
        dtype: Data type that the potential computes in.
        device: Device that the potential computes on.
        swirl_axis: b, of length 1.
        charge_energy: E += charge_energy q² for a system of charge q, in eV.
        spin_energy: E += spin_energy (m - 1) for spin multiplicity m, in eV.
    """

    radial: RadialFunction
    cutoff: float
    swirl: float
    dtype: torch.dtype
    device: torch.device
    swirl_axis: tuple[float, float, float] = (2.0 / 7.0, 3.0 / 7.0, 6.0 / 7.0)
    charge_energy: float = 0.0
    spin_energy: float = 0.0

    @property
    def parameters(self) -> dict[str, object]:
        """The parameters of the potential, for display."""
        return {"radial": self.radial, "swirl": self.swirl, "swirl_axis": self.swirl_axis}

    @property
    def elements(self) -> tuple[int, ...]:
        """All elements."""
        return tuple(range(1, 119))

    @property
    def outputs(self) -> frozenset[str]:
        """All outputs."""
        return frozenset(OUTPUTS)

    @property
    def uses_charge(self) -> bool:
        """True if the energy depends on the charge."""
        return self.charge_energy != 0.0

    @property
    def uses_spin(self) -> bool:
        """True if the energy depends on the spin."""
        return self.spin_energy != 0.0

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:
        """Return the energies of the atoms and, if requested, the direct forces and stress.

        The direct stress follows from the direct pair forces: Σ sym(d fᵀ) / 2V.
        """
        d = batch.displacements()
        u = (d * d).sum(dim=1)
        energy, slope, _ = self.radial.terms(u)
        atom_energies = batch.sum_over_pairs(energy / 2) + self._state_energies(batch)
        if not direct:
            return Heads(atom_energies)
        axis = torch.tensor(self.swirl_axis, dtype=d.dtype, device=d.device).expand_as(d)
        swirl = self.swirl * envelope(u, self.cutoff)[0]
        forces = 2 * slope[:, None] * d + swirl[:, None] * torch.linalg.cross(axis, d)
        return Heads(atom_energies, batch.sum_over_pairs(forces), _stress(batch, d, forces))

    def direct_jacobian(self, system: System) -> Floats:
        """Return d(direct_forces)/d(positions) in closed form, shape [3 n_atoms, 3 n_atoms].

        Each pair adds K to block (i, j) and subtracts it from block (i, i):

            K = 2 V' 1 + 4 V'' d dᵀ + g [b]× + 2 g' (b × d) dᵀ
        """
        neighbors = neighbor_list([system], self.cutoff)
        i, j = neighbors.pairs
        d = system.positions[j] - system.positions[i] + neighbors.shifts @ system.cell
        blocks = np.zeros((len(system), len(system), 3, 3))
        k = self._pair_jacobians(d)
        np.add.at(blocks, (i, j), k)
        np.subtract.at(blocks, (i, i), k)
        return blocks.transpose(0, 2, 1, 3).reshape(3 * len(system), 3 * len(system))

    def exact_lambda(self, system: System) -> float:
        """Return the nonconservativity of the direct force: 0 for a gradient.

        λ = ‖(J - Jᵀ)/2‖ / ‖J‖        J -> direct_jacobian,  ‖·‖ Frobenius
        """
        jacobian = self.direct_jacobian(system)
        odd = (jacobian - jacobian.T) / 2
        return float(np.linalg.norm(odd) / np.linalg.norm(jacobian))

    def _pair_jacobians(self, d: Floats) -> Floats:
        u = (d * d).sum(axis=1)
        _, first, second = (term[:, None, None] for term in self.radial.terms(u))
        g, slope, _ = (self.swirl * term[:, None, None] for term in envelope(u, self.cutoff))
        axis = np.array(self.swirl_axis)
        cross = np.cross(axis, np.eye(3)).T
        dyad = d[:, :, None] * d[:, None, :]
        curl = np.cross(axis, d)[:, :, None] * d[:, None, :]
        k: Floats = 2 * first * np.eye(3) + 4 * second * dyad + g * cross + 2 * slope * curl
        return k

    def _state_energies(self, batch: Batch) -> Tensor:
        excess = batch.spin_multiplicity.to(batch.charge.dtype) - 1
        energy = self.charge_energy * batch.charge**2 + self.spin_energy * excess
        sizes = batch.sum_over_atoms(torch.ones_like(batch.positions[:, 0]))
        return batch.to_atoms(energy / sizes)


def _stress(batch: Batch, d: Tensor, pair_forces: Tensor) -> Tensor:
    """Return 1/(2V) Σ sym(d fᵀ); not finite for a system without a cell, which has no stress."""
    dyads = d.unsqueeze(2) * pair_forces.unsqueeze(1) / 2
    total = batch.sum_over_atoms(batch.sum_over_pairs((dyads + dyads.transpose(1, 2)) / 2))
    return total / batch.volumes[:, None, None]
