"""Requests to evaluate systems, as both transports read them, and their meaning for the service."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinforce_proto import (
    InvalidRequestError,
    InvalidSystemError,
    ModelInfo,
    PredictRequest,
    System,
)
from twinforce_proto.checks import has_volume
from twinforce_proto.errors import quoted
from twinforce_proto.outputs import OUTPUTS, STRESSES
from twinforce_service.calls.bounds import CallLimits
from twinforce_service.transports.open_inference.parameters import InferOptions
from twinforce_service.transports.open_inference.tensors import (
    INPUTS,
    OUTPUT_KINDS,
    Tensor,
    check_names,
)

_REQUIRED = [kind.name for kind in INPUTS.values() if not kind.is_optional]
# Tensors with one row per system, beside `n_atoms`.
_PER_SYSTEM = ("cell", "pbc", "charge", "spin_multiplicity")


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """A tensor to reply with.

    Attributes:
        name: Name of the tensor.
        parameters: Its parameters.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """A request in the words of the protocol.

    Attributes:
        label: Identifier that the reply repeats.
        options: Meaning of its parameters.
        tensors: Tensors that describe the systems.
        requested: Tensors to reply with; none stands for all that the model has.
    """

    label: str
    options: InferOptions
    tensors: Sequence[Tensor]
    requested: Sequence[RequestedOutput]

    @property
    def n_systems(self) -> int:
        """Number of systems, as far as it is known before the tensors are checked."""
        lengths = (each.array.size for each in self.tensors if each.name == "n_atoms")
        return next(lengths, 1)

    def for_model(self, info: ModelInfo, limits: CallLimits) -> PredictRequest:
        """Return the request in the words of the service.

        Args:
            info: Description of the model.
            limits: Limits of a call.

        Raises:
            InvalidRequestError: A tensor is missing, unknown, or does not fit the others.
            InvalidSystemError: A system is invalid; `system_index` says which.
        """
        names = [each.name for each in self.requested]
        for name in names:
            if name not in OUTPUT_KINDS:
                raise InvalidRequestError.expected("outputs", ", ".join(OUTPUTS), quoted(name))
        check_names(names, "outputs")
        systems = systems_of(self.tensors, limits)
        outputs = frozenset(names) or _all_outputs(info, systems)
        return PredictRequest(info.name, systems, outputs, self.options.reply_dtype)


def systems_of(tensors: Sequence[Tensor], limits: CallLimits) -> tuple[System, ...]:
    """Return the systems that tensors describe.

    Args:
        tensors: Tensors of `INPUTS`, each with the values of all systems one after another.
        limits: Limits of a call.

    Raises:
        InvalidRequestError: A tensor is missing, or does not fit the others.
        InvalidSystemError: A system is invalid; `system_index` says which.
    """
    check_names((each.name for each in tensors), "inputs")
    arrays = {each.name: each.array for each in tensors}
    if missing := [name for name in _REQUIRED if name not in arrays]:
        got = ", ".join(arrays) or "none"
        raise InvalidRequestError.expected("inputs", f"the tensor {missing[0]}", got)
    sizes = _sizes(arrays, limits)
    if len(arrays["positions"]) != sum(sizes):
        expected = f"shape {[sum(sizes), 3]}, as there are {sum(sizes)} atoms"
        got = f"shape {list(arrays['positions'].shape)}"
        raise InvalidRequestError.expected("positions", expected, got)
    rows = {name: _rows(name, arrays[name], len(sizes)) for name in _PER_SYSTEM if name in arrays}
    systems, begin = [], 0
    for index, size in enumerate(sizes):
        atoms = slice(begin, begin := begin + size)
        values = {name: values[index] for name, values in rows.items()}
        try:
            systems.append(
                System(arrays["atomic_numbers"][atoms], arrays["positions"][atoms], **values)
            )
        except InvalidSystemError as error:
            raise error.at(index) from error
    return tuple(systems)


def _sizes(arrays: Mapping[str, NDArray[Any]], limits: CallLimits) -> list[int]:
    """Return the number of atoms of each system."""
    n_atoms = len(arrays["atomic_numbers"])
    limits.check_atoms(n_atoms)
    if "n_atoms" not in arrays:
        return [n_atoms]
    sizes = arrays["n_atoms"]
    if not len(sizes):
        raise InvalidRequestError.expected("n_atoms", "at least one system", "none")
    limits.check_systems(len(sizes))
    if (wrong := (sizes < 1) | (sizes > n_atoms)).any():
        expected = f"numbers from 1 to {n_atoms}, the length of atomic_numbers"
        index = int(wrong.argmax())
        raise InvalidRequestError.expected("n_atoms", expected, f"{sizes[index]} at [{index}]")
    if (total := int(sizes.sum(dtype=np.int64))) != n_atoms:
        expected = f"numbers that add up to {n_atoms}, the length of atomic_numbers"
        raise InvalidRequestError.expected("n_atoms", expected, f"a sum of {total}")
    numbers: list[int] = sizes.tolist()
    return numbers


def _rows(name: str, array: NDArray[Any], n_systems: int) -> Any:
    """Return the value of each system in a tensor with one row per system, as a sequence."""
    shape = INPUTS[name].shape
    if array.ndim < len(shape) and n_systems == 1:
        array = array[np.newaxis]
    if array.ndim < len(shape) or len(array) != n_systems:
        expected = f"shape {[n_systems, *shape[1:]]}, as there are {n_systems} systems"
        raise InvalidRequestError.expected(name, expected, f"shape {list(array.shape)}")
    return array if array.ndim > 1 else array.tolist()


def _all_outputs(info: ModelInfo, systems: Sequence[System]) -> frozenset[str]:
    """Return all outputs of a model that are defined for these systems."""
    outputs = frozenset(info.outputs)
    if all(system.pbc.all() or has_volume(system.cell) for system in systems):
        return outputs
    return outputs - STRESSES
