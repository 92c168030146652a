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
    """The name, origin and capabilities that a served model declares.

    Attributes:
        name: Name that requests use.
        version: Version of the model.
        sha256: SHA-256 of the weights, in hexadecimal.
        architecture: Family of potentials that the model belongs to.
        cutoff: Cutoff radius, in Å.
        elements: Atomic numbers of the supported elements.
        dtype: Type that the model computes in, such as "float32".
        device: Device that the model runs on, such as "cpu" or "cuda:0".
        outputs: Outputs that the model can predict, in the order of `OUTPUTS`.
        n_parameters: Number of trained parameters.
        uses_charge: True if the total charge of a system affects its prediction.
        uses_spin: True if the spin multiplicity of a system affects its prediction.
        units: Unit of each output.
        metadata: Errors, training data, recipe and the like, as a JSON object.
        card: Model card, in Markdown.
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
