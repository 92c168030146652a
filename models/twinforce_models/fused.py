"""What a potential gives that takes its derivatives by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from twinforce_models.batch import Batch
    from twinforce_models.potential import Heads


@dataclass(frozen=True, slots=True, eq=False)
class FusedHeads:
    """What one call gives.

    Attributes:
        heads: As `Potential.forward_heads` gives them, no graph behind them.
        gradients: Of the sum of all energies: for "conservative_forces" by the positions, shape
            [n_atoms, 3], in eV/Å; for "conservative_stress" by the strain, shape
            [n_systems, 3, 3], in eV.
    """

    heads: Heads
    gradients: Mapping[str, Tensor]


@runtime_checkable
class Fused(Protocol):
    """A `Potential` that has a faster way to the same results, for some batches."""

    def forward_fused(self, batch: Batch, outputs: frozenset[str]) -> FusedHeads | None:
        """Evaluate a batch once, gradients and all.

        Args:
            batch: As `Potential.forward_heads` gets it.
            outputs: Names of `OUTPUTS` that are wanted.

        Returns:
            None for a batch, or outputs, that need the ordinary way.
        """
