"""The interfaces of potentials: what every potential provides, and what some provide in addition.

In one forward pass, a potential returns an energy per atom (or one per system, if its network has
no energies of atoms) and, if it has the heads, direct forces and a direct stress. `prediction`
derives conservative forces and stress from that energy by autograd, in the same pass, so a caller
who wants both kinds of forces pays for one evaluation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from twinforce_models.batch import Batch


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """The results of one forward pass.

    Attributes:
        atom_energies: Shape [n_atoms], in eV. May be float64 even if the model computes in
            float32, to keep the digits of a large constant per element. None if the potential has
            no energies of atoms; `atom_energies` is then not among its outputs.
        direct_forces: Shape [n_atoms, 3], in eV/Å, net force included; None if the potential has
            no such head or the caller did not ask for it.
        direct_stress: Shape [n_systems, 3, 3], in eV/Å³, tension > 0; None as for `direct_forces`.
        energy: Shape [n_systems], in eV, of a potential without energies of atoms; None if it
            follows from `atom_energies`.
    """

    atom_energies: Tensor | None = None
    direct_forces: Tensor | None = None
    direct_stress: Tensor | None = None
    energy: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DirectHeads:
    """The results of the direct heads alone, as in `Heads`."""

    direct_forces: Tensor | None = None
    direct_stress: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FusedHeads:
    """The results of an evaluation that includes derivatives; no autograd graph is attached.

    Attributes:
        atom_energies: Shape [n_atoms], in eV.
        gradients: Gradients of the sum of all energies: under "conservative_forces" with respect
            to the positions, shape [n_atoms, 3], in eV/Å; under "conservative_stress" with
            respect to the strain, shape [n_systems, 3, 3], in eV.
        direct_forces: Shape [n_atoms, 3], in eV/Å, net force included.
        direct_stress: Shape [n_systems, 3, 3], in eV/Å³.
    """

    atom_energies: Tensor
    gradients: Mapping[str, Tensor]
    direct_forces: Tensor | None = None
    direct_stress: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Exemption:
    """A known exception of a potential to one rule of the contract of potentials.

    A potential declares its exceptions in an attribute `exemptions`, a tuple of these.

    Attributes:
        check: Name of the check, as `check_potential` prints it.
        up_to: Largest deviation that is known.
        reason: The cause, for users.
    """

    check: str
    up_to: float
    reason: str


class Potential(Protocol):
    """An object that assigns energies to the atoms or systems of a batch.

    It need not be a torch module. If it has some of its `outputs` for systems that are periodic in
    all three directions only, it names them in the attribute `outputs_if_periodic`, a frozenset.
    """

    @property
    def cutoff(self) -> float:
        """Distance up to which an atom interacts with others, in Å."""

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that the potential supports."""

    @property
    def dtype(self) -> torch.dtype:
        """Data type that the potential computes in."""

    @property
    def device(self) -> torch.device:
        """Device that the potential computes on."""

    @property
    def outputs(self) -> frozenset[str]:
        """Names of `OUTPUTS` that `predict` can return for this potential."""

    @property
    def uses_charge(self) -> bool:
        """True if the energy depends on the total charge of a system."""

    @property
    def uses_spin(self) -> bool:
        """True if the energy depends on the spin multiplicity of a system."""

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:
        """Evaluate a batch once.

        Args:
            batch: The energies must depend differentiably on its positions and cells, for example
                by way of its `displacements`, which keep more digits than positions.
            direct: True if the direct heads are to be evaluated as well.
        """


@runtime_checkable
class DirectAlone(Protocol):
    """A `Potential` that can evaluate its direct heads without its energy."""

    def forward_direct(self, batch: Batch) -> DirectHeads:
        """Evaluate only the direct heads of a batch."""


@runtime_checkable
class Separable(DirectAlone, Protocol):
    """A `Potential` made of two parts that share nothing, so evaluating both saves nothing."""

    @property
    def conservative(self) -> Potential:
        """The part that provides the energy."""

    @property
    def direct(self) -> Potential:
        """The part that provides the direct outputs."""


@runtime_checkable
class Fused(Protocol):
    """A `Potential` with a faster implementation that takes derivatives without autograd."""

    def forward_fused(self, batch: Batch, outputs: frozenset[str]) -> FusedHeads | None:
        """Evaluate a batch once, including the gradients.

        Args:
            batch: The batch, as `Potential.forward_heads` receives it.
            outputs: Requested names of `OUTPUTS`.

        Returns:
            None if this batch, or these outputs, must be evaluated by `Potential.forward_heads`.
        """


def outputs_if_periodic(potential: object) -> frozenset[str]:
    """Return the outputs that need a system that is periodic in all three directions."""
    names: frozenset[str] = getattr(potential, "outputs_if_periodic", frozenset())
    return names


# These three run for every batch. `isinstance` of a protocol would take as long as a small batch.


def as_direct_alone(potential: object) -> DirectAlone | None:
    """Return the potential if it is `DirectAlone`, or None."""
    return cast(DirectAlone, potential) if hasattr(potential, "forward_direct") else None


def is_separable(potential: object) -> bool:
    """Return True if the potential is `Separable`."""
    has_parts = hasattr(potential, "conservative") and hasattr(potential, "direct")
    return has_parts and as_direct_alone(potential) is not None


def as_fused(potential: object) -> Fused | None:
    """Return the potential if it is `Fused`, or None."""
    return cast(Fused, potential) if hasattr(potential, "forward_fused") else None
