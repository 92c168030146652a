"""What metatomic and metatrain call the quantities that TwinForce serves.

https://docs.metatensor.org/metatomic, "Standard quantities". An output may come in variants, such
as `energy/pbe` and `energy/r2scan`; `non_conservative_forces` is what files of before 2026 say.
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
        names: What it is called, the present name first.
        unit: What we ask for it in.
    """

    names: tuple[str, ...]
    unit: str


ENERGY = Quantity(("energy",), "eV")
DIRECT_FORCE = Quantity(("non_conservative_force", "non_conservative_forces"), "eV/angstrom")
DIRECT_STRESS = Quantity(("non_conservative_stress",), "eV/angstrom^3")

_AUTOGRAD = frozenset({"energy", "atom_energies", "conservative_forces", "conservative_stress"})
_DIRECT = {DIRECT_FORCE: "direct_forces", DIRECT_STRESS: "direct_stress"}


def pick(outputs: Sequence[str], variant: str | None) -> dict[Quantity, str]:
    """Return which output holds which quantity.

    Args:
        outputs: All that a model has.
        variant: Which one to take where there are several. None: the one without a variant, or
            the only one there is. Direct outputs are taken of the same variant as the energy: a
            correction between two levels of theory would be no correction.

    Raises:
        ModelLoadError: If no output, or more than one, could be the energy.
    """
    variants = sorted({name for name in outputs if name.partition("/")[0] in ENERGY.names})
    if variant is not None:
        candidates = [name for name in variants if name.partition("/")[2] == variant]
    else:
        candidates = [name for name in variants if "/" not in name] or variants
    if len(candidates) != 1:
        raise ModelLoadError(_which_energy(variants, variant))
    energy = candidates[0]
    suffix = energy.removeprefix("energy")
    found = {ENERGY: energy}
    for quantity in _DIRECT:
        if names := [name + suffix for name in quantity.names if name + suffix in outputs]:
            found[quantity] = names[0]
    return found


def offered_outputs(found: Mapping[Quantity, str]) -> frozenset[str]:
    """Return names of `OUTPUTS`: what autograd makes of the energy, and what else was found."""
    return _AUTOGRAD | {_DIRECT[quantity] for quantity in found if quantity in _DIRECT}


def whole_number_per_system(batch: Batch, name: str) -> Tensor:
    """Return the charges or spin multiplicities of a batch, shape [n_systems], int64.

    Raises:
        InvalidSystemError: If one is not a whole number.
    """
    values: Tensor = getattr(batch, name)
    whole = values.round()
    if not torch.equal(whole, values):
        index = int((whole != values).nonzero()[0])
        raise InvalidSystemError(
            f"{name}: this model expects a whole number, got {values[index].item():g}",
            system_index=index,
            field=name,
        )
    return whole.to(torch.int64)


def named(dtype: torch.dtype | None) -> str:
    """Return "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def _which_energy(variants: Sequence[str], variant: str | None) -> str:
    if not variants:
        return "this model has no output 'energy'"
    known = ", ".join(name.partition("/")[2] or "none" for name in variants)
    if variant is None:
        return f"variant: this model has several energies, name one of them: {known}"
    return f"variant: this model has the energies {known}, got {variant!r}"
