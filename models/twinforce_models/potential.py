"""What a potential is, and what autograd adds to it.

A potential gives, in one forward pass, an energy per atom and, if it has the heads, direct forces
and a direct stress. Conservative forces and stress are derivatives of that energy, taken here and
from the same pass, so that a caller who wants both kinds of forces pays for one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from twinforce_models.batch import Batch

DIRECT_OUTPUTS = frozenset({"direct_forces", "direct_stress"})


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """What one forward pass gives.

    Attributes:
        atom_energies: Shape [n_atoms], in eV. They may come in float64 from a float32 model, to
            keep the digits of a large constant per element.
        direct_forces: Shape [n_atoms, 3], in eV/Å, net force and all; None without the head or
            when it was not asked for.
        direct_stress: Shape [n_systems, 3, 3], in eV/Å³, tension > 0; None likewise.
    """

    atom_energies: Tensor
    direct_forces: Tensor | None = None
    direct_stress: Tensor | None = None


class Potential(Protocol):
    """Anything that gives the atoms of a batch their energies: a torch module or not."""

    @property
    def cutoff(self) -> float:
        """How far an atom sees, in Å."""

    @property
    def elements(self) -> tuple[int, ...]:
        """The atomic numbers it was made for."""

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def outputs(self) -> frozenset[str]:
        """What `predict` can give with it: names of `OUTPUTS`."""

    @property
    def uses_charge(self) -> bool:
        """Whether the total charge of a system matters."""

    @property
    def uses_spin(self) -> bool:
        """Whether the spin multiplicity of a system matters."""

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:
        """Evaluate a batch once.

        Args:
            batch: Whose positions and cells the atom energies must depend on differentiably.
            direct: Whether the direct heads are wanted.
        """


@dataclass(frozen=True, slots=True, eq=False)
class DirectHeads:
    """What the direct heads give alone: as in `Heads`."""

    direct_forces: Tensor | None = None
    direct_stress: Tensor | None = None


@runtime_checkable
class DirectAlone(Protocol):
    """A `Potential` that can evaluate its direct heads without its energy."""

    def forward_direct(self, batch: Batch) -> DirectHeads:
        """Evaluate the direct heads of a batch, and nothing else."""


@runtime_checkable
class Separable(DirectAlone, Protocol):
    """A `Potential` of two that share nothing, so that evaluating both together saves nothing."""

    @property
    def conservative(self) -> Potential:
        """What gives the energy."""

    @property
    def direct(self) -> Potential:
        """What gives the direct outputs."""


def as_direct_alone(potential: object) -> DirectAlone | None:
    """Return the potential if it is `DirectAlone`.

    Asked for every batch, where `isinstance` of a protocol would take as long as a small one.
    """
    return cast(DirectAlone, potential) if hasattr(potential, "forward_direct") else None


def is_separable(potential: object) -> bool:
    """Tell whether a potential is `Separable`; as fast."""
    has_parts = hasattr(potential, "conservative") and hasattr(potential, "direct")
    return has_parts and as_direct_alone(potential) is not None


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
