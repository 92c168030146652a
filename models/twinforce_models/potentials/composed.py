"""Two potentials served as one hybrid: the energy of one, the direct heads of another.

    conservative:A+direct:B        energy, conservative forces and stress of A; direct ones of B

So a large conservative model can correct a small direct one. Neither is evaluated for what only the
other gives, and each sees the pairs within its own cutoff.
"""

import hashlib
import re
from typing import Any

import torch

from twinforce_models.batch import Batch
from twinforce_models.potential import (
    DIRECT_OUTPUTS,
    DirectAlone,
    DirectHeads,
    Heads,
    Potential,
)
from twinforce_proto import ModelInfo, ModelLoadError

_SPEC = re.compile(r"conservative:(?P<conservative>.+)\+direct:(?P<direct>.+)")
_PREFIXES = ("conservative:", "direct:")


class Composed:
    """The `Potential` that two make together.

    Attributes:
        conservative: Gives the energy.
        direct: Gives the direct forces and, if it can, the direct stress.
        cutoff: The longer of the two, in Å.
        elements: Those that both know.
    """

    def __init__(self, conservative: Potential, direct: Potential) -> None:
        """Compose.

        Raises:
            ModelLoadError: They do not fit together.
        """
        _check_outputs(conservative, direct)
        _check_same(conservative, direct)
        self.conservative, self.direct = conservative, direct
        self.cutoff = max(conservative.cutoff, direct.cutoff)
        self.elements = tuple(sorted({*conservative.elements} & {*direct.elements}))
        if not self.elements:
            raise ModelLoadError(
                f"a composed model needs common elements, but its conservative part knows "
                f"{_listed(conservative.elements)} and its direct part {_listed(direct.elements)}"
            )
        self.outputs = (conservative.outputs - DIRECT_OUTPUTS) | (direct.outputs & DIRECT_OUTPUTS)
        self.uses_charge, self.uses_spin = conservative.uses_charge, conservative.uses_spin

    @property
    def dtype(self) -> torch.dtype:
        """What both compute in."""
        return self.conservative.dtype

    @property
    def device(self) -> torch.device:
        """Where both compute."""
        return self.conservative.device

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:
        """Evaluate a batch: the conservative part, and the direct one if it is wanted."""
        heads = self.conservative.forward_heads(
            self._seen_by(self.conservative, batch), direct=False
        )
        own = self.forward_direct(batch) if direct else DirectHeads()
        return Heads(heads.atom_energies, own.direct_forces, own.direct_stress)

    def forward_direct(self, batch: Batch) -> DirectHeads:
        """Evaluate the direct part of a batch alone."""
        own = self._seen_by(self.direct, batch)
        if isinstance(self.direct, DirectAlone):
            return self.direct.forward_direct(own)
        heads = self.direct.forward_heads(own, direct=True)
        return DirectHeads(heads.direct_forces, heads.direct_stress)

    def _seen_by(self, part: Potential, batch: Batch) -> Batch:
        return batch if part.cutoff == self.cutoff else batch.within(part.cutoff)


def parts_of(spec: str) -> tuple[str, str] | None:
    """Return the specs of the conservative and the direct part; None for any other spec.

    Raises:
        ModelLoadError: One of them is missing.
    """
    if not spec.startswith(_PREFIXES):
        return None
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise ModelLoadError(f"model {spec!r}: expected conservative:A+direct:B, each a model")
    return found["conservative"], found["direct"]


def facts_of(conservative: ModelInfo, direct: ModelInfo) -> dict[str, Any]:
    """Return what a composed model declares of itself, from what its parts declare."""
    hashes = f"{conservative.sha256} {direct.sha256}"
    return {
        "version": f"{conservative.version}+{direct.version}",
        "sha256": hashlib.sha256(hashes.encode()).hexdigest(),
        "architecture": f"{conservative.architecture}+{direct.architecture}",
        "n_parameters": conservative.n_parameters + direct.n_parameters,
        "metadata": {"conservative": _provenance(conservative), "direct": _provenance(direct)},
        "card": (
            f"# A composed hybrid\n\nEnergy, conservative forces and stress are those of "
            f"{conservative.name} {conservative.version}, direct ones those of {direct.name} "
            f"{direct.version}.\n\n{conservative.card}\n\n{direct.card}"
        ),
    }


def _provenance(info: ModelInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "version": info.version,
        "sha256": info.sha256,
        "architecture": info.architecture,
        "cutoff": info.cutoff,
        "elements": list(info.elements),
        "metadata": dict(info.metadata),
    }


def _check_outputs(conservative: Potential, direct: Potential) -> None:
    needed = {"energy", "conservative_forces"}
    if missing := needed - conservative.outputs:
        raise ModelLoadError(f"the conservative part of a composed model has no {_listed(missing)}")
    if "direct_forces" not in direct.outputs:
        raise ModelLoadError("the direct part of a composed model has no direct_forces")


def _check_same(conservative: Potential, direct: Potential) -> None:
    """Refuse two parts that do not compute alike, or understand a system differently."""
    for what, one, other in (
        ("dtype", conservative.dtype, direct.dtype),
        ("device", conservative.device, direct.device),
        ("use of the charge", conservative.uses_charge, direct.uses_charge),
        ("use of the spin", conservative.uses_spin, direct.uses_spin),
    ):
        if one != other:
            raise ModelLoadError(
                f"the parts of a composed model need the same {what}, got {one} in the "
                f"conservative one and {other} in the direct one"
            )


def _listed(items: object) -> str:
    return ", ".join(str(each) for each in sorted(items))  # type: ignore[call-overload]
