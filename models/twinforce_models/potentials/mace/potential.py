"""The potential of a MACE model: its network on our neighbor list, many systems in one pass.

I. Batatia et al., MACE: Higher order equivariant message passing neural networks for fast and
accurate force fields, NeurIPS 2022, arXiv 2206.07697.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.potential import Heads
from twinforce_models.potentials.quantities import whole_number_per_system
from twinforce_proto import ModelLoadError

_CONDITIONS: dict[str, Callable[[Batch], Tensor]] = {
    "total_charge": lambda batch: whole_number_per_system(batch, "charge"),
    "total_spin": lambda batch: whole_number_per_system(batch, "spin_multiplicity"),
}
"""Properties of a system that some networks take, by their names in mace."""


class MacePotential:
    """A `Potential` around a MACE network.

    Attributes:
        cutoff: Cutoff radius, in Å.
        elements: Elements that the network was trained on.
        outputs: All but the direct ones; without energies of atoms if the network adds some of the
            energy per system.
    """

    def __init__(self, network: Any, head: str, device: torch.device) -> None:
        """Wrap a network.

        Args:
            network: A `ScaleShiftMACE` in the dtype of the potential.
            head: Name of one of its heads, each of which is an energy of another level of theory.
            device: Device of the computation.

        Raises:
            ModelLoadError: If the network takes inputs that TwinForce does not provide.
        """
        self._network = network.to(device).eval().requires_grad_(False)
        self._head = list(network.heads).index(head)
        self._conditions = tuple(getattr(network, "embedding_specs", None) or ())
        if unknown := set(self._conditions) - _CONDITIONS.keys():
            raise ModelLoadError(
                f"inputs: expected {' or '.join(_CONDITIONS)} per system, got {sorted(unknown)}"
            )
        numbers = [int(z) for z in network.atomic_numbers]
        self._kinds = torch.full((max(numbers) + 1,), -1, device=device)
        self._kinds[numbers] = torch.arange(len(numbers), device=device)
        self._has_atom_energies = not hasattr(network, "embedding_readout")
        self.device = device
        self.dtype: torch.dtype = network.r_max.dtype
        self.cutoff = float(network.r_max)
        self.elements = tuple(sorted(numbers))
        atoms = {"atom_energies"} if self._has_atom_energies else set()
        self.outputs = frozenset({"energy", "conservative_forces", "conservative_stress", *atoms})
        self.uses_charge = "total_charge" in self._conditions
        self.uses_spin = "total_spin" in self._conditions

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:  # noqa: ARG002
        """Evaluate a batch once; there are no direct heads."""
        predicted = self._network(self._data(batch), compute_force=False)
        if self._has_atom_energies:
            return Heads(predicted["node_energy"])
        return Heads(energy=predicted["energy"])

    def _data(self, batch: Batch) -> dict[str, Tensor]:
        """Return a batch as the network takes it.

        The network subtracts positions and adds shifts. Here the shifts are the whole vectors, from
        neighbor to center, and all atoms lie at the origin: our vectors have more digits.
        """
        kinds = self._kinds.index_select(0, batch.atomic_numbers)
        one_hot = torch.nn.functional.one_hot(kinds, len(self.elements)).to(self.dtype)
        sizes = torch.tensor((0, *batch.n_atoms_per_system), device=self.device)
        vectors = -batch.displacements()
        conditions = {name: _CONDITIONS[name](batch).to(self.dtype) for name in self._conditions}
        return conditions | {
            "positions": torch.zeros(batch.n_atoms, 3, dtype=self.dtype, device=self.device),
            "node_attrs": one_hot,
            "edge_index": batch.pairs.flip(0),
            "shifts": vectors,
            "unit_shifts": batch.shifts.to(self.dtype),
            "cell": batch.cells.detach().to(self.dtype),
            "batch": batch.system_index,
            "ptr": sizes.cumsum(0),
            "head": torch.full((batch.n_systems,), self._head, device=self.device),
        }
