"""The native potential with compiled parts, as soon as there are any."""

from collections.abc import Hashable

import torch
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.potential import FusedHeads, Heads
from twinforce_models.potentials.hybrid_net.compilation.loading import Compiled
from twinforce_models.potentials.hybrid_net.compilation.spec import (
    MIN_SIZE,
    Part,
    Spec,
    named_weights,
)
from twinforce_models.potentials.hybrid_net.core import CoreHeads
from twinforce_models.potentials.hybrid_net.fused import HybridHeads
from twinforce_models.potentials.hybrid_net.potential import HybridNet, reverse_index, tabulate
from twinforce_models.tables.table import AtomValues, Table, Wanted
from twinforce_proto import needs_autograd
from twinforce_proto.outputs import DIRECT_OUTPUTS


class CompiledHybridNet:
    """A `Potential` and `Fused` that evaluates compiled parts, or `plain` where none fits.

    Parts may be added at any time, from any thread.

    Attributes:
        plain: The potential that is compiled.
    """

    def __init__(self, plain: HybridNet) -> None:
        self.plain = plain
        self.cutoff, self.elements, self.outputs = plain.cutoff, plain.elements, plain.outputs
        self.dtype, self.device = plain.dtype, plain.device
        self.uses_charge, self.uses_spin = plain.uses_charge, plain.uses_spin
        self._weights = list(named_weights(plain.core).values())
        self._parts: dict[Part, tuple[Spec, Compiled]] = {}

    @property
    def parts(self) -> frozenset[Part]:
        """Names of the compiled parts."""
        return frozenset(self._parts)

    def use(self, spec: Spec, compiled: Compiled) -> None:
        """Evaluate a part with the function compiled from the spec, from the next batch on."""
        self._parts[spec.part] = spec, compiled

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:
        """Evaluate a batch once, with `plain`."""
        return self.plain.forward_heads(batch, direct=direct)

    def forward_fused(self, batch: Batch, outputs: frozenset[str]) -> FusedHeads | None:
        """Evaluate a batch once; None if the required part is missing or does not fit the batch."""
        part = self._parts.get("hybrid" if needs_autograd(outputs) else "direct")
        if part is None or batch.n_atoms < MIN_SIZE:
            return None
        spec, compiled = part
        neighbors, vectors = tabulate(batch, self.cutoff, MIN_SIZE)
        if neighbors.numel() > spec.max_slots:
            return None
        kinds = self.plain.kind_of_element.index_select(0, batch.atomic_numbers)
        inputs = [kinds, neighbors, vectors]
        if spec.has_reverse:
            inputs.append(reverse_index(batch, neighbors.shape[1]))
        results = compiled([*self._weights, *inputs])
        heads = CoreHeads(*results[: len(CoreHeads._fields)])
        references = self.plain.reference_energies.index_select(0, kinds)
        atom_energies = references + heads.local_energies.to(torch.float64)
        gradients: dict[str, Tensor] = {}
        if spec.part == "hybrid":
            gradients = _gradients(HybridHeads(*results), batch, outputs)
        if outputs.isdisjoint(DIRECT_OUTPUTS):
            return FusedHeads(atom_energies, gradients)
        stress = None
        if "direct_stress" in outputs:
            strain_gradients = batch.sum_over_atoms(heads.direct_strain_gradients)
            stress = strain_gradients / batch.volumes[:, None, None]
        return FusedHeads(atom_energies, gradients, heads.direct_forces, stress)

    @property
    def table_variant(self) -> Hashable:
        """The set of compiled parts that tables are evaluated with at present."""
        return self.parts

    def evaluate_table(self, table: Table, wanted: Wanted, max_seen: int) -> AtomValues:
        """Evaluate a table, with a compiled part if one can evaluate it."""
        part = self._parts.get("hybrid" if wanted.gradient else "direct")
        if part is None or min(table.neighbors.shape) < MIN_SIZE:
            return self.plain.evaluate_table(table, wanted, max_seen)
        spec, compiled = part
        if table.neighbors.numel() > spec.max_slots:
            return self.plain.evaluate_table(table, wanted, max_seen)
        inputs = self.plain.inputs_of(table, with_reverse=spec.has_reverse)
        tensors = [tensor for tensor in inputs if tensor is not None]
        results = compiled([*self._weights, *tensors])
        heads = HybridHeads(*results) if wanted.gradient else CoreHeads(*results)
        return self.plain.values_of(inputs.kinds, heads)


def _gradients(heads: HybridHeads, batch: Batch, outputs: frozenset[str]) -> dict[str, Tensor]:
    gradients = {"conservative_forces": -heads.conservative_forces}
    if "conservative_stress" in outputs:
        gradients["conservative_stress"] = batch.sum_over_atoms(heads.strain_gradients)
    return gradients
