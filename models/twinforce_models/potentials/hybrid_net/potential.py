"""The native hybrid potential: `HybridCore` applied to batches, and its weights on disk."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from twinforce_models.batch import Batch, reversed_pairs
from twinforce_models.potential import Heads
from twinforce_models.potentials.hybrid_net import fused
from twinforce_models.potentials.hybrid_net.core import (
    CoreHeads,
    HybridCore,
    Hyperparameters,
    NeighborTable,
)
from twinforce_models.potentials.hybrid_net.fused import HybridHeads, Inputs
from twinforce_models.tables.search import reversed_places
from twinforce_models.tables.table import AtomValues, Table, Wanted
from twinforce_proto import OUTPUTS


class HybridNet(nn.Module):
    """A `Potential` around a trained `HybridCore`.

    Attributes:
        outputs: All outputs, since the network has all three heads.
    """

    kind_of_element: Tensor
    outputs = frozenset(OUTPUTS)
    uses_charge = False
    uses_spin = False
    table_variant = "plain"

    def __init__(self, core: HybridCore, reference_energies: Tensor) -> None:
        """Wrap a core.

        Args:
            core: In the dtype and on the device that the potential is to use.
            reference_energies: Energy of each element, in eV. Added in float64, whatever the core's
                dtype: they are thousands of times larger than the energies of the network.
        """
        super().__init__()
        self.core = core.eval().requires_grad_(False)
        self.elements = core.hyperparameters.elements
        self.cutoff = core.hyperparameters.cutoff
        weight = core.embedding.weight
        self.dtype, self.device = weight.dtype, weight.device
        self.reference_energies = reference_energies.to(self.device, torch.float64)
        kinds = torch.zeros(119, dtype=torch.int64)
        kinds[list(self.elements)] = torch.arange(len(self.elements))
        self.kind_of_element = kinds.to(self.device)

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:
        """Evaluate a batch once."""
        kinds = self.kind_of_element.index_select(0, batch.atomic_numbers)
        table = tabulate(batch, self.cutoff)
        references = self.reference_energies.index_select(0, kinds)
        if not direct:
            return Heads(references + self.core.local_energies(kinds, table).to(torch.float64))
        heads = self.core(kinds, table)
        strain_gradients = batch.sum_over_atoms(heads.direct_strain_gradients)
        return Heads(
            references + heads.local_energies.to(torch.float64),
            heads.direct_forces,
            strain_gradients / batch.volumes[:, None, None],
        )

    def evaluate_table(self, table: Table, wanted: Wanted, max_seen: int) -> AtomValues:
        """Evaluate a table; all neighbors are used."""
        del max_seen
        inputs = self.inputs_of(table, with_reverse=wanted.gradient)
        evaluate = fused.hybrid if wanted.gradient else fused.direct
        return self.values_of(inputs.kinds, evaluate(self.core, inputs))

    def inputs_of(self, table: Table, *, with_reverse: bool) -> Inputs:
        """Return the inputs of the network for a table."""
        kinds = self.kind_of_element.index_select(0, table.atomic_numbers)
        reverse = None
        if with_reverse:
            reverse = reversed_places(table.neighbors, table.shifts, table.counts)
        return Inputs(kinds, table.neighbors, table.vectors, reverse)

    def values_of(self, kinds: Tensor, heads: CoreHeads | HybridHeads) -> AtomValues:
        """Return the results of the network as those of the potential."""
        references = self.reference_energies.index_select(0, kinds)
        values = AtomValues(
            references + heads.local_energies.to(torch.float64),
            direct_forces=heads.direct_forces,
            direct_strain_gradients=heads.direct_strain_gradients,
        )
        if isinstance(heads, CoreHeads):
            return values
        return replace(
            values,
            conservative_forces=heads.conservative_forces,
            strain_gradients=heads.strain_gradients,
        )


def tabulate(batch: Batch, cutoff: float, min_width: int = 1) -> NeighborTable:
    """Return the pairs of a batch as a `NeighborTable`, as wide as the densest atom requires.

    Args:
        batch: The batch; the vectors depend differentiably on its positions and cells.
        cutoff: Distance of the padding, in Å.
        min_width: Smallest number of entries per atom.
    """
    counts = neighbor_counts(batch)
    width = max(int(counts.max()), min_width)
    place = places_in_table(batch, width, counts)
    index = torch.arange(batch.n_atoms, device=place.device).unsqueeze(1).expand(-1, width)
    index = index.reshape(-1).index_copy(0, place, batch.pairs[1])
    apart = batch.displacements()
    vectors = apart.new_zeros(batch.n_atoms * width, 3)
    vectors[:, 0] = cutoff
    vectors = vectors.index_copy(0, place, apart)
    return NeighborTable(index.view(-1, width), vectors.view(-1, width, 3))


def reverse_index(batch: Batch, width: int) -> Tensor:
    """Return the reverse index of the pairs in the table of `tabulate`, shape [n_atoms, width]."""
    place = places_in_table(batch, width)
    reverse = torch.arange(batch.n_atoms * width, device=place.device)
    back = reversed_pairs(batch.pairs[0], batch.pairs[1], batch.shifts)
    reverse.index_copy_(0, place, place.index_select(0, back))
    return reverse.view(-1, width)


def neighbor_counts(batch: Batch) -> Tensor:
    """Return the number of neighbors of each atom, shape [n_atoms]."""
    return torch.bincount(batch.pairs[0], minlength=batch.n_atoms)


def places_in_table(batch: Batch, width: int, counts: Tensor | None = None) -> Tensor:
    """Return the index of each pair in a flattened table with `width` entries per atom.

    Args:
        batch: The batch of the pairs.
        width: At least the largest number of neighbors of an atom.
        counts: `neighbor_counts`, if they are known already.
    """
    i = batch.pairs[0]
    counts = neighbor_counts(batch) if counts is None else counts
    rows = torch.arange(0, batch.n_atoms * width, width, device=i.device)
    first = rows - (counts.cumsum(0) - counts)
    return first.index_select(0, i) + torch.arange(len(i), device=i.device)


def load(
    directory: Path, metadata: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> HybridNet:
    """Return the potential whose weights are in `directory`/model.safetensors.

    Args:
        directory: Directory of the model.
        metadata: Its model.json; `hyperparameters` are those of the network.
        device: Device to compute on.
        dtype: Data type to compute in.
    """
    core = HybridCore(Hyperparameters.from_values(metadata["hyperparameters"]))
    tensors = load_file(directory / "model.safetensors")
    reference_energies = tensors.pop("reference_energies")
    core.load_state_dict(tensors)
    return HybridNet(core.to(device, dtype), reference_energies)


def save(potential: HybridNet, directory: Path) -> None:
    """Write `directory`/model.safetensors, for `load`."""
    tensors = {name: tensor.cpu() for name, tensor in potential.core.state_dict().items()}
    tensors["reference_energies"] = potential.reference_energies.cpu()
    (directory / "model.safetensors").write_bytes(serialize(tensors))
