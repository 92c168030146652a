"""Two potentials served as one hybrid: the energy of one and the direct heads of another.

    conservative:A+direct:B        energy, conservative forces and stress of A; direct ones of B

A large conservative model can thus correct a small direct one. Each part is evaluated only for the
outputs that it provides, and receives the pairs within its own cutoff.
"""

import torch

from twinforce_models.batch import Batch
from twinforce_models.loading.composition import common_elements, compose_outputs
from twinforce_models.potential import (
    DirectAlone,
    DirectHeads,
    Heads,
    Potential,
    as_fused,
    outputs_if_periodic,
)
from twinforce_proto.outputs import DIRECT_OUTPUTS


class Composed:
    """A `Potential` composed of two others.

    Attributes:
        conservative: Provides the energy.
        direct: Provides the direct forces and, if it can, the direct stress.
        cutoff: The longer of the two cutoffs, in Å.
        elements: Elements that both parts support.
    """

    def __init__(self, conservative: Potential, direct: Potential) -> None:
        """Combine two potentials.

        Raises:
            ModelLoadError: If the parts do not match.
        """
        self.elements = common_elements(conservative, direct)
        self.conservative, self.direct = conservative, direct
        self.cutoff = max(conservative.cutoff, direct.cutoff)
        self.outputs = compose_outputs(conservative.outputs, direct.outputs)
        self.outputs_if_periodic = compose_outputs(
            outputs_if_periodic(conservative), outputs_if_periodic(direct)
        )
        self.uses_charge, self.uses_spin = conservative.uses_charge, conservative.uses_spin

    @property
    def dtype(self) -> torch.dtype:
        """Data type that both parts compute in."""
        return self.conservative.dtype

    @property
    def device(self) -> torch.device:
        """Device that both parts compute on."""
        return self.conservative.device

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:
        """Evaluate the conservative part of a batch, and the direct part if requested."""
        heads = self.conservative.forward_heads(
            self._within_cutoff(self.conservative, batch), direct=False
        )
        own = self.forward_direct(batch) if direct else DirectHeads()
        return Heads(heads.atom_energies, own.direct_forces, own.direct_stress, heads.energy)

    def forward_direct(self, batch: Batch) -> DirectHeads:
        """Evaluate only the direct part of a batch."""
        own = self._within_cutoff(self.direct, batch)
        fused = None if torch.is_grad_enabled() else as_fused(self.direct)
        if fused is not None:
            outputs = frozenset(self.direct.outputs & DIRECT_OUTPUTS)
            if (found := fused.forward_fused(own, outputs)) is not None:
                return DirectHeads(found.direct_forces, found.direct_stress)
        if isinstance(self.direct, DirectAlone):
            return self.direct.forward_direct(own)
        heads = self.direct.forward_heads(own, direct=True)
        return DirectHeads(heads.direct_forces, heads.direct_stress)

    def _within_cutoff(self, part: Potential, batch: Batch) -> Batch:
        return batch if part.cutoff == self.cutoff else batch.within(part.cutoff)
