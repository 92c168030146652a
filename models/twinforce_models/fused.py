"""What a potential gives that takes its derivatives by itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

from torch import Tensor

from twinforce_models.batch import Batch


@dataclass(frozen=True, slots=True, eq=False)
class FusedHeads:
    """What one call gives: the attributes of `Heads`, no graph behind them, and gradients.

    Attributes:
        atom_energies: Shape [n_atoms], in eV.
        gradients: Of the sum of all energies: for "conservative_forces" by the positions, shape
            [n_atoms, 3], in eV/Å; for "conservative_stress" by the strain, shape
            [n_systems, 3, 3], in eV.
        direct_forces: Shape [n_atoms, 3], in eV/Å, net force and all.
        direct_stress: Shape [n_systems, 3, 3], in eV/Å³.
    """

    atom_energies: Tensor
    gradients: Mapping[str, Tensor]
    direct_forces: Tensor | None = None
    direct_stress: Tensor | None = None


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


def as_fused(potential: object) -> Fused | None:
    """Return the potential if it is `Fused`; for every batch, as `isinstance` takes far longer."""
    return cast(Fused, potential) if hasattr(potential, "forward_fused") else None
