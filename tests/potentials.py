"""Potentials to test the service with: one that works, and some that fail in a known way."""

import threading

import torch

from twinforce_models.potential import Heads
from twinforce_models.registry import LoadedModel
from twinforce_proto import OUTPUTS, UNITS, ModelInfo

ARGON, NEON = 18, 10


class Soft:
    """Atoms with a soft repulsion: E = ½ Σ exp(-r²/4); supports argon and neon."""

    cutoff = 6.0
    elements = (NEON, ARGON)
    dtype = torch.float64
    device = torch.device("cpu")
    outputs = frozenset(OUTPUTS)
    uses_charge = False
    uses_spin = False

    def __init__(self):
        self.batches = []

    def forward_heads(self, batch, *, direct):
        """Evaluate a batch, and record the number of atoms of each of its systems."""
        self.batches.append(batch.n_atoms_per_system)
        vectors = batch.displacements()
        weights = torch.exp(-vectors.square().sum(dim=1) / 4)
        heads = {"atom_energies": batch.sum_over_pairs(0.5 * weights)}
        if direct:
            heads["direct_forces"] = batch.sum_over_pairs(-0.4 * weights[:, None] * vectors)
            heads["direct_stress"] = torch.zeros_like(batch.cells)
        return Heads(**heads)


class WithoutDirect(Soft):
    """A potential without direct heads."""

    outputs = frozenset({"energy", "atom_energies", "conservative_forces"})


class Raising(Soft):
    """A potential that raises if a batch contains neon; the warm-up evaluates argon."""

    elements = (ARGON, NEON)

    def __init__(self, error=None):
        super().__init__()
        self.error = error or RuntimeError("no neon, please")

    def forward_heads(self, batch, *, direct):
        heads = super().forward_heads(batch, direct=direct)
        if (batch.atomic_numbers == NEON).any():
            raise self.error
        return heads


class NonFinite(Soft):
    """A potential that returns NaN as the energy of neon."""

    def forward_heads(self, batch, *, direct):
        heads = super().forward_heads(batch, direct=direct)
        energies = torch.where(batch.atomic_numbers == NEON, torch.nan, heads.atom_energies)
        return Heads(energies, heads.direct_forces, heads.direct_stress)


class TooLittle(Raising):
    """A potential that omits the last atom if a batch contains neon."""

    def forward_heads(self, batch, *, direct):
        heads = Soft.forward_heads(self, batch, direct=direct)
        if not (batch.atomic_numbers == NEON).any():
            return heads
        return Heads(heads.atom_energies[:-1], None, None)


class Gated(Soft):
    """A potential that waits in each batch after the warm-up until the test releases `gate`."""

    def __init__(self):
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(2)

    def forward_heads(self, batch, *, direct):
        self.entered.release()
        self.gate.acquire()
        return super().forward_heads(batch, direct=direct)


def loaded(potential, name="soft"):
    """Return a potential as a model that can be served."""
    info = ModelInfo(
        name=name,
        version="1",
        sha256="0" * 64,
        architecture=type(potential).__name__,
        cutoff=potential.cutoff,
        elements=potential.elements,
        dtype=str(potential.dtype).removeprefix("torch."),
        device=str(potential.device),
        outputs=tuple(each for each in OUTPUTS if each in potential.outputs),
        units={each: UNITS[each] for each in potential.outputs},
    )
    return LoadedModel(info=info, potential=potential)
