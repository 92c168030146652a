"""Two potentials served as one hybrid: the energy of one and the direct heads of another.

    conservative:A+direct:B        energy, conservative forces and stress of A; direct ones of B

A large conservative model can thus correct a small direct one. Each part is evaluated only for the
outputs that it provides, and receives the pairs within its own cutoff.
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
    as_fused,
    outputs_if_periodic,
)
from twinforce_proto import ModelInfo, ModelLoadError

_SPEC = re.compile(r"conservative:(?P<conservative>.+)\+direct:(?P<direct>.+)")
_PREFIXES = ("conservative:", "direct:")


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
        _check_outputs(conservative, direct)
        _check_same(conservative, direct)
        self.conservative, self.direct = conservative, direct
        self.cutoff = max(conservative.cutoff, direct.cutoff)
        self.elements = tuple(sorted({*conservative.elements} & {*direct.elements}))
        if not self.elements:
            raise ModelLoadError(
                f"the parts of a composed model need elements in common, got "
                f"{_listed(conservative.elements)} in the conservative one and "
                f"{_listed(direct.elements)} in the direct one"
            )
        self.outputs = (conservative.outputs - DIRECT_OUTPUTS) | (direct.outputs & DIRECT_OUTPUTS)
        self.outputs_if_periodic = (outputs_if_periodic(conservative) - DIRECT_OUTPUTS) | (
            outputs_if_periodic(direct) & DIRECT_OUTPUTS
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


def parse_composed_spec(spec: str) -> tuple[str, str] | None:
    """Return the specs of the conservative and the direct part; None for any other spec.

    Raises:
        ModelLoadError: If one of them is missing.
    """
    if not spec.startswith(_PREFIXES):
        return None
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise ModelLoadError(
            f"model {spec!r}: expected conservative:A+direct:B, with the specs of two models"
        )
    return found["conservative"], found["direct"]


def composed_facts(conservative: ModelInfo, direct: ModelInfo) -> dict[str, Any]:
    """Return the fields of `ModelInfo` of a composed model that follow from those of its parts."""
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
    """Raise if two parts compute differently, or interpret a system differently."""
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
