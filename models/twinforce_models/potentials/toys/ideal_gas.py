"""Atoms without interactions: a potential of negligible cost, to measure the overhead of a service.

E = -Σ_i ε Z_i        f = 0        σ = 0
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.potential import FusedHeads, Heads
from twinforce_proto import OUTPUTS
from twinforce_proto.outputs import DIRECT_OUTPUTS

_MAX_ATOMIC_NUMBER = 118
_ELEMENTS = tuple(range(1, _MAX_ATOMIC_NUMBER + 1))


@dataclass(frozen=True, slots=True, eq=False)
class IdealGas:
    """An energy per element and no forces of either kind; supports every element and output.

    Attributes:
        depth: ε, in eV.
        cutoff: In Å; atoms within it do not interact either.
        atom_energies: -ε Z for Z from 0, in eV.
    """

    depth: float
    cutoff: float
    atom_energies: Tensor

    @property
    def parameters(self) -> dict[str, object]:
        """The parameters of the potential, for display."""
        return {"depth": self.depth}

    @property
    def dtype(self) -> torch.dtype:
        """Data type that the potential computes in."""
        return self.atom_energies.dtype

    @property
    def device(self) -> torch.device:
        """Device that the potential computes on."""
        return self.atom_energies.device

    @property
    def elements(self) -> tuple[int, ...]:
        """All elements."""
        return _ELEMENTS

    @property
    def outputs(self) -> frozenset[str]:
        """All outputs."""
        return frozenset(OUTPUTS)

    @property
    def uses_charge(self) -> bool:
        """Always False."""
        return False

    @property
    def uses_spin(self) -> bool:
        """Always False."""
        return False

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:
        """Return the energies of the atoms and, if requested, direct forces and stress of zero."""
        energies = self._energies(batch)
        if not direct:
            return Heads(energies)
        return Heads(energies, torch.zeros_like(batch.positions), torch.zeros_like(batch.cells))

    def forward_fused(self, batch: Batch, outputs: frozenset[str]) -> FusedHeads:
        """Return the same, and the gradients of the energies, also zero, without autograd."""
        like = {"conservative_forces": batch.positions, "conservative_stress": batch.cells}
        gradients = {name: torch.zeros_like(like[name]) for name in like if name in outputs}
        heads = self.forward_heads(batch, direct=not DIRECT_OUTPUTS.isdisjoint(outputs))
        return FusedHeads(
            self._energies(batch), gradients, heads.direct_forces, heads.direct_stress
        )

    def _energies(self, batch: Batch) -> torch.Tensor:
        return self.atom_energies.index_select(0, batch.atomic_numbers)


def ideal_gas(
    depth: float = 0.01,
    cutoff: float = 2.0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> IdealGas:
    """Return atoms without interactions, whose energy does not depend on charge or spin.

    Args:
        depth: ε, in eV.
        cutoff: In Å.
        dtype: Data type to compute in.
        device: Device to compute on.
    """
    numbers = torch.arange(_MAX_ATOMIC_NUMBER + 1, dtype=dtype, device=device)
    return IdealGas(depth, cutoff, -depth * numbers)
