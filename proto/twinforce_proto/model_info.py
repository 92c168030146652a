"""The capabilities that a model declares, and the check of requests against them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from twinforce_proto.errors import UnsupportedElementError, UnsupportedOutputError
from twinforce_proto.outputs import OUTPUTS, STRESSES
from twinforce_proto.system import System


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a served model declares of itself.

    Attributes:
        name: What a client asks for.
        version: Of the model.
        sha256: Of the weights, in hexadecimal.
        architecture: The family of potentials it belongs to.
        cutoff: In Å.
        elements: Atomic numbers it was made for.
        dtype: What it computes in, such as "float32".
        device: Such as "cpu" or "cuda:0".
        outputs: What can be asked of it, in the order of `OUTPUTS`.
        n_parameters: How many numbers were trained.
        uses_charge: Whether the total charge of a system matters.
        uses_spin: Whether the spin multiplicity of a system matters.
        units: Of each output.
        metadata: Errors, training data, recipe ...: as JSON has it.
        card: The model card, in Markdown.
    """

    name: str
    version: str
    sha256: str
    architecture: str
    cutoff: float
    elements: tuple[int, ...]
    dtype: str
    device: str
    outputs: tuple[str, ...]
    n_parameters: int = 0
    uses_charge: bool = False
    uses_spin: bool = False
    units: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    card: str = ""


class Declares(Protocol):
    """Anything that says what it was made for."""

    @property
    def elements(self) -> tuple[int, ...]:
        """The atomic numbers it was made for."""

    @property
    def outputs(self) -> frozenset[str]:
        """What it can give: names of `OUTPUTS`."""


def check_supported(
    potential: Declares, systems: Sequence[System], outputs: frozenset[str]
) -> None:
    """Raise unless the potential can give these outputs for each of these systems."""
    check_outputs(potential, outputs)
    known = np.zeros(256, dtype=bool)
    known[list(potential.elements)] = True
    for index, system in enumerate(systems):
        if not known[system.atomic_numbers].all():
            unknown = sorted({int(z) for z in system.atomic_numbers if not known[z]})
            raise UnsupportedElementError(
                f"atomic_numbers: this model was not made for elements {_listed(unknown)}; "
                f"it knows {_listed(potential.elements)}",
                system_index=index,
                field="atomic_numbers",
            )
    if outputs & STRESSES:
        check_periodic([bool(system.pbc.all()) for system in systems])


def check_outputs(potential: Declares, outputs: frozenset[str]) -> None:
    """Raise unless the potential has these outputs."""
    if missing := outputs - potential.outputs:
        raise UnsupportedOutputError(
            f"this model has no {_listed(sorted(missing))}; it has {_listed(_ordered(potential))}",
            field="outputs",
        )


def check_periodic(is_periodic: Sequence[bool]) -> None:
    """Raise unless each of these systems has a stress."""
    for index, periodic in enumerate(is_periodic):
        if not periodic:
            raise UnsupportedOutputError(
                "pbc: a stress needs a system that is periodic in all three directions",
                system_index=index,
                field="outputs",
            )


def _ordered(potential: Declares) -> list[str]:
    return [name for name in OUTPUTS if name in potential.outputs]


def _listed(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items) or "none"
