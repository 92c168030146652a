"""The capabilities that a model declares, and the check of requests against them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from twinforce_proto.checks import MAX_ATOMIC_NUMBER, MIN_PERIOD, has_volume
from twinforce_proto.errors import (
    InvalidSystemError,
    ServiceError,
    UnsupportedElementError,
    UnsupportedOutputError,
)
from twinforce_proto.outputs import OUTPUTS, STRESSES
from twinforce_proto.system import System


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The description of a served model.

    Attributes:
        name: Name that clients use to select the model.
        version: Version of the model.
        sha256: SHA-256 of the weights, in hexadecimal.
        architecture: Family of potentials that the model belongs to.
        cutoff: Cutoff radius, in Å.
        elements: Atomic numbers that the model supports.
        dtype: Floating-point type of its computations, such as "float32".
        device: Device on which it runs, such as "cpu" or "cuda:0".
        outputs: Outputs that the model supports, in the order of `OUTPUTS`.
        n_parameters: Number of trained parameters.
        uses_charge: True if predictions depend on the total charge of a system.
        uses_spin: True if predictions depend on the spin multiplicity of a system.
        units: Unit of each output.
        metadata: Errors, training data, recipe and the like, as JSON values.
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
    """A potential or a `ModelInfo`: anything that declares elements and outputs."""

    @property
    def elements(self) -> Collection[int]:
        """Atomic numbers of the supported elements."""

    @property
    def outputs(self) -> Collection[str]:
        """Supported outputs, names of `OUTPUTS`."""


class Support:
    """The outputs and systems that a model supports.

    Build it once per model and reuse it, because it holds a table of the elements.

    Args:
        model: Declares the elements and outputs.
        name: Name of the model in error messages, if it has one.
        uses_charge: False if the model would ignore the charge of a system.
        uses_spin: False if the model would ignore the spin multiplicity of a system.
    """

    def __init__(
        self, model: Declares, name: str = "", *, uses_charge: bool = True, uses_spin: bool = True
    ) -> None:
        self._title = f"model {name!r}" if name else "this model"
        self._outputs = frozenset(model.outputs)
        self._if_periodic: frozenset[str] = getattr(model, "outputs_if_periodic", frozenset())
        self._elements = model.elements
        self._uses_charge = uses_charge
        self._uses_spin = uses_spin
        self._is_known = np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=np.bool_)
        # A model may declare atomic types that are not elements, such as 0 or 200.
        self._is_known[[z for z in model.elements if 1 <= z <= MAX_ATOMIC_NUMBER]] = True

    @classmethod
    def of(cls, info: ModelInfo) -> "Support":
        """Return the outputs and systems that a served model supports."""
        return cls(info, info.name, uses_charge=info.uses_charge, uses_spin=info.uses_spin)

    def check_outputs(self, outputs: frozenset[str]) -> None:
        """Raise `UnsupportedOutputError` unless the model has these outputs."""
        if missing := outputs - self._outputs:
            present = [name for name in OUTPUTS if name in self._outputs]
            raise UnsupportedOutputError(
                f"outputs: {self._title} has no {_listed(sorted(missing))}; "
                f"it has {_listed(present)}",
                field="outputs",
            )

    def reason_to_refuse(self, system: System, outputs: frozenset[str]) -> ServiceError | None:
        """Return why the model cannot evaluate this system, or None.

        Args:
            system: System to evaluate.
            outputs: Outputs to evaluate, which the model has.
        """
        if not self._is_known[system.atomic_numbers].all():
            unknown = set(system.atomic_numbers.tolist()).difference(self._elements)
            return UnsupportedElementError.expected(
                "atomic_numbers",
                f"elements that {self._title} supports ({_listed(self._elements)})",
                _listed(sorted(unknown)),
            )
        if not (STRESSES.isdisjoint(outputs) or system.pbc.all() or has_volume(system.cell)):
            return UnsupportedOutputError.expected(
                "cell",
                f"vectors, periodic or not, that span at least {MIN_PERIOD**3:.3g} Å³, as a stress "
                "is per volume",
                system.cell.tolist() if system.cell.any() else "no cell",
            )
        if (undefined := reason_if_open(system, outputs & self._if_periodic)) is not None:
            return undefined
        if system.charge and not self._uses_charge:
            return self._ignored("charge", "none or 0", f"{system.charge:g}")
        if system.spin_multiplicity not in (None, 1) and not self._uses_spin:
            return self._ignored("spin_multiplicity", "none or 1", system.spin_multiplicity)
        return None

    def _ignored(self, field: str, expected: str, got: object) -> InvalidSystemError:
        reason = f"as {self._title} does not use it"
        return InvalidSystemError.expected(field, f"{expected}, {reason}", got)


def reason_if_open(system: System, if_periodic: frozenset[str]) -> ServiceError | None:
    """Return why a model lacks outputs that it has for periodic systems only, or None.

    Args:
        system: System to evaluate.
        if_periodic: Outputs that need a system that is periodic in all three directions.
    """
    if not if_periodic or system.pbc.all():
        return None
    names = _listed(sorted(if_periodic))
    expected = f"a system periodic in all three directions, as this model has no {names} otherwise"
    return UnsupportedOutputError.expected("pbc", expected, system.pbc.tolist())


def check_supported(model: Declares, systems: Sequence[System], outputs: frozenset[str]) -> None:
    """Raise unless the model supports these outputs for each of these systems.

    Raises:
        UnsupportedOutputError: The model lacks an output, or a system without a volume has no
            stress.
        UnsupportedElementError: The model does not support an element of a system.
    """
    support = Support(model)
    support.check_outputs(outputs)
    for index, system in enumerate(systems):
        if (error := support.reason_to_refuse(system, outputs)) is not None:
            raise error.at(index)


def _listed(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items) or "none"
