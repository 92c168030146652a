"""Hybrids composed of two models: their specs, what the parts must agree on, their description.

conservative:A+direct:B        energy, conservative forces and stress of A; direct ones of B
"""

import hashlib
import re
from collections.abc import Collection
from typing import Any, Protocol

from twinforce_proto import OUTPUTS, UNITS, ModelInfo, ModelLoadError
from twinforce_proto.outputs import DIRECT_OUTPUTS

_SPEC = re.compile(r"conservative:(?P<conservative>.+)\+direct:(?P<direct>.+)")
_PREFIXES = ("conservative:", "direct:")


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


def compose_spec(conservative: str, direct: str) -> str:
    """Return the spec of a composed model; the inverse of `parse_composed_spec`."""
    return f"conservative:{conservative}+direct:{direct}"


class HybridPart(Protocol):
    """A part of a hybrid, a potential or its `ModelInfo`, as far as the parts must match."""

    @property
    def elements(self) -> Collection[int]:
        """Atomic numbers of the supported elements."""

    @property
    def outputs(self) -> Collection[str]:
        """Supported outputs."""

    @property
    def dtype(self) -> object:
        """Data type of the computation."""

    @property
    def device(self) -> object:
        """Device of the computation."""

    @property
    def uses_charge(self) -> bool:
        """True if predictions depend on the charge."""

    @property
    def uses_spin(self) -> bool:
        """True if predictions depend on the spin."""


def common_elements(conservative: HybridPart, direct: HybridPart) -> tuple[int, ...]:
    """Return the elements that a hybrid of two parts supports.

    Raises:
        ModelLoadError: If the parts do not match.
    """
    _check_outputs(conservative, direct)
    _check_same(conservative, direct)
    elements = tuple(sorted({*conservative.elements} & {*direct.elements}))
    if not elements:
        raise ModelLoadError(
            f"the parts of a composed model need elements in common, got "
            f"{_listed(conservative.elements)} in the conservative one and "
            f"{_listed(direct.elements)} in the direct one"
        )
    return elements


def compose_outputs(conservative: Collection[str], direct: Collection[str]) -> frozenset[str]:
    """Return the outputs of a hybrid of parts with these outputs."""
    return (frozenset(conservative) - DIRECT_OUTPUTS) | (frozenset(direct) & DIRECT_OUTPUTS)


def compose_info(conservative: ModelInfo, direct: ModelInfo, name: str = "") -> ModelInfo:
    """Return the description of a hybrid of two parts.

    Args:
        conservative: Description of the part that provides the energy.
        direct: Description of the part that provides the direct forces.
        name: Name of the hybrid; by default that of its spec.

    Raises:
        ModelLoadError: If the parts do not match.
    """
    available = compose_outputs(conservative.outputs, direct.outputs)
    outputs = tuple(each for each in OUTPUTS if each in available)
    hashes = f"{conservative.sha256} {direct.sha256}"
    return ModelInfo(
        name=name or compose_spec(conservative.name, direct.name),
        version=f"{conservative.version}+{direct.version}",
        sha256=hashlib.sha256(hashes.encode()).hexdigest(),
        architecture=f"{conservative.architecture}+{direct.architecture}",
        cutoff=max(conservative.cutoff, direct.cutoff),
        elements=common_elements(conservative, direct),
        dtype=conservative.dtype,
        device=conservative.device,
        outputs=outputs,
        n_parameters=conservative.n_parameters + direct.n_parameters,
        uses_charge=conservative.uses_charge,
        uses_spin=conservative.uses_spin,
        units={output: UNITS[output] for output in outputs},
        metadata={"conservative": _provenance(conservative), "direct": _provenance(direct)},
        card=(
            f"# A composed hybrid\n\nEnergy, conservative forces and stress are those of "
            f"{conservative.name} {conservative.version}, direct ones those of {direct.name} "
            f"{direct.version}.\n\n{conservative.card}\n\n{direct.card}"
        ),
    )


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


def _check_outputs(conservative: HybridPart, direct: HybridPart) -> None:
    needed = {"energy", "conservative_forces"}
    if missing := needed - {*conservative.outputs}:
        raise ModelLoadError(f"the conservative part of a composed model has no {_listed(missing)}")
    if "direct_forces" not in direct.outputs:
        raise ModelLoadError("the direct part of a composed model has no direct_forces")


def _check_same(conservative: HybridPart, direct: HybridPart) -> None:
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
