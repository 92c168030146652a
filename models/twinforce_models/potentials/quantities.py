"""Names in metatomic and metatrain of the quantities that TwinForce serves.

https://docs.metatensor.org/metatomic, "Standard quantities". An output may come in variants, such
as `energy/pbe` and `energy/r2scan`. Files from before 2026 use `non_conservative_forces`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_proto import InvalidSystemError, ModelLoadError


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity that an output may hold.

    Attributes:
        names: Names of the output, the current name first.
        unit: Unit to request.
    """

    names: tuple[str, ...]
    unit: str


ENERGY = Quantity(("energy",), "eV")
DIRECT_FORCE = Quantity(("non_conservative_force", "non_conservative_forces"), "eV/angstrom")
DIRECT_STRESS = Quantity(("non_conservative_stress",), "eV/angstrom^3")

_AUTOGRAD = frozenset({"energy", "atom_energies", "conservative_forces", "conservative_stress"})
_DIRECT = {DIRECT_FORCE: "direct_forces", DIRECT_STRESS: "direct_stress"}


def pick(outputs: Sequence[str], variant: str | None) -> dict[Quantity, str]:
    """Return the output that holds each quantity.

    Args:
        outputs: All outputs of a model.
        variant: Variant to use if there are several. None selects the output without a variant, or
            the only one there is. Direct outputs are those of the same variant as the energy,
            because a correction between two levels of theory would not be a correction.

    Raises:
        ModelLoadError: If no output, or more than one, could be the energy.
    """
    variants = sorted({name for name in outputs if name.partition("/")[0] in ENERGY.names})
    if variant is not None:
        candidates = [name for name in variants if name.partition("/")[2] == variant]
    else:
        candidates = [name for name in variants if "/" not in name] or variants
    if len(candidates) != 1:
        raise ModelLoadError(_choice_of_energy(variants, variant))
    energy = candidates[0]
    suffix = energy.removeprefix("energy")
    found = {ENERGY: energy}
    for quantity in _DIRECT:
        if names := [name + suffix for name in quantity.names if name + suffix in outputs]:
            found[quantity] = names[0]
    return found


def offered_outputs(found: Mapping[Quantity, str]) -> frozenset[str]:
    """Return names of `OUTPUTS`: those that follow from the energy by autograd, and direct ones."""
    return _AUTOGRAD | {_DIRECT[quantity] for quantity in found if quantity in _DIRECT}


def whole_number_per_system(batch: Batch, name: str) -> Tensor:
    """Return the charges or spin multiplicities of a batch, shape [n_systems], int64.

    Raises:
        InvalidSystemError: If one of them is not a whole number.
    """
    values: Tensor = getattr(batch, name)
    rounded = values.round()
    if not torch.equal(rounded, values):
        index = int((rounded != values).nonzero()[0])
        expected, got = "a whole number for this model", f"{values[index].item():g}"
        raise InvalidSystemError.expected(name, expected, got).at(index)
    return rounded.to(torch.int64)


def named(dtype: torch.dtype | None) -> str:
    """Return the name of a data type, such as "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def _choice_of_energy(variants: Sequence[str], variant: str | None) -> str:
    if not variants:
        return "this model has no output 'energy'"
    known = ", ".join(name.partition("/")[2] or "none" for name in variants)
    if variant is None:
        return f"variant: this model has several energies, name one of them: {known}"
    return f"variant: expected one of {known}, got {variant!r}"
