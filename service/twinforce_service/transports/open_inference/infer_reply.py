"""Replies: predictions as tensors, with their origin and timings as parameters."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from twinforce_proto import OUTPUTS, Prediction, PredictRequest
from twinforce_proto.codec.messages import slowest_timings
from twinforce_service.transports.open_inference.infer_request import InferRequest
from twinforce_service.transports.open_inference.tensors import OUTPUT_KINDS, Tensor


@dataclass(frozen=True, slots=True, eq=False)
class InferReply:
    """A reply in the words of the protocol.

    Attributes:
        model: Name of the model.
        version: Version of the model.
        label: Identifier of the request.
        tensors: The outputs, in the order of the request.
        parameters: Origin and timings of the predictions: texts and numbers by name.
    """

    model: str
    version: str
    label: str
    tensors: Sequence[Tensor]
    parameters: dict[str, str | int | float]


def reply_to(
    infer: InferRequest, request: PredictRequest, predictions: Sequence[Prediction]
) -> InferReply:
    """Return the reply to a request; the timings are those of the slowest prediction.

    Args:
        infer: The request in the words of the protocol.
        request: The same in the words of the service.
        predictions: Prediction of each system.
    """
    names = [each.name for each in infer.requested]
    names = names or [name for name in OUTPUTS if name in request.outputs]
    parameters: dict[str, str | int | float] = {}
    if (provenance := predictions[0].provenance) is not None:
        parameters |= asdict(provenance)
        del parameters["model"], parameters["version"]  # which the reply itself names
    if (timings := slowest_timings(predictions)) is not None:
        parameters |= asdict(timings)
    version = "" if provenance is None else provenance.version
    tensors = [_joined(name, predictions, request.reply_dtype) for name in names]
    return InferReply(request.model, version, infer.label, tensors, parameters)


def _joined(name: str, predictions: Sequence[Prediction], dtype: str) -> Tensor:
    """Return an output of all systems as one tensor; energies are always float64."""
    values: list[Any] = [getattr(each, name) for each in predictions]
    if name == "energy":
        return Tensor(name, np.array(values, np.float64))
    is_per_system = len(OUTPUT_KINDS[name].shape) == 3
    joined = np.stack(values) if is_per_system else np.concatenate(values)
    return Tensor(name, joined.astype(dtype, copy=False))
