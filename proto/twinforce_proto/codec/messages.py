"""Conversion of the domain types to and from protobuf messages."""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from twinforce_proto.codec.arrays import (
    INT32,
    array_from_proto,
    array_to_proto,
    bytes_of,
    dtype_from_proto,
    dtype_to_proto,
    int32_from_bytes,
    write_array,
)
from twinforce_proto.errors import (
    InvalidRequestError,
    InvalidSystemError,
    PredictionError,
    ServiceError,
)
from twinforce_proto.model_info import ModelInfo
from twinforce_proto.outputs import DEFAULT_OUTPUTS, OUTPUTS, parse_outputs
from twinforce_proto.prediction import Prediction, PredictRequest, Provenance, Timings
from twinforce_proto.system import System
from twinforce_proto.v1 import inference_pb2 as pb

# Key of the serialized `Error` message in the trailing metadata of a failed gRPC call.
ERROR_METADATA_KEY = "twinforce-error-bin"

# Messages that carry a provenance.
_Reply: TypeAlias = (
    pb.PredictReply | pb.StreamReply | pb.NonconservativityReply | pb.Snapshot | pb.Relaxed
)

_OUTPUT_NUMBERS: dict[str, pb.Output] = {
    name: getattr(pb, f"OUTPUT_{name.upper()}") for name in OUTPUTS
}
_OUTPUT_NAMES: dict[int, str] = {number: name for name, number in _OUTPUT_NUMBERS.items()}
_ARRAY_SHAPES: dict[str, tuple[int, ...]] = {
    "atom_energies": (-1,),
    "conservative_forces": (-1, 3),
    "direct_forces": (-1, 3),
    "conservative_stress": (3, 3),
    "direct_stress": (3, 3),
}


def outputs_to_proto(outputs: Iterable[str]) -> list[pb.Output]:
    """Encode outputs in the order of `OUTPUTS`, with shorthands expanded."""
    names = parse_outputs(outputs)
    return [number for name, number in _OUTPUT_NUMBERS.items() if name in names]


def outputs_from_proto(numbers: Iterable[int]) -> frozenset[str]:
    """Decode outputs; an empty list stands for `DEFAULT_OUTPUTS`."""
    names = [_OUTPUT_NAMES.get(number, f"output {number}") for number in numbers]
    return parse_outputs(names or DEFAULT_OUTPUTS)


def system_to_proto(system: System) -> pb.System:
    """Encode a system."""
    return pb.System(
        atomic_numbers=bytes_of(system.atomic_numbers, INT32),
        positions=array_to_proto(system.positions),
        cell=array_to_proto(system.cell) if system.cell.any() else None,
        pbc=system.pbc.tolist() if system.pbc.any() else (),
        charge=system.charge,
        spin_multiplicity=system.spin_multiplicity,
    )


def system_from_proto(message: pb.System) -> System:
    """Decode a system.

    Raises:
        InvalidSystemError: The system is invalid, or bytes are missing.
    """
    return System(
        atomic_numbers=int32_from_bytes(message.atomic_numbers, "atomic_numbers"),
        positions=array_from_proto(message.positions, "positions", (-1, 3)),
        cell=cell_from_proto(message),
        pbc=list(message.pbc) or None,
        charge=message.charge if message.HasField("charge") else None,
        spin_multiplicity=(
            message.spin_multiplicity if message.HasField("spin_multiplicity") else None
        ),
    )


def required_system_from_proto(
    message: pb.NonconservativityRequest | pb.Start | pb.RelaxRequest,
) -> System:
    """Decode the system of a message that must have one.

    Raises:
        InvalidRequestError: There is no system.
        InvalidSystemError: The system is invalid, or bytes are missing.
    """
    if not message.HasField("system"):
        raise InvalidRequestError.expected("system", "one", "none")
    return system_from_proto(message.system)


def cell_from_proto(message: pb.System | pb.Move | pb.Snapshot) -> NDArray[np.float64] | None:
    """Decode the cell of a message, or return None if it has none."""
    return array_from_proto(message.cell, "cell", (3, 3)) if message.HasField("cell") else None


def predict_request_to_proto(request: PredictRequest) -> pb.PredictRequest:
    """Encode a request."""
    return pb.PredictRequest(
        model=request.model,
        systems=map(system_to_proto, request.systems),
        outputs=outputs_to_proto(request.outputs),
        reply_dtype=dtype_to_proto(request.reply_dtype),
    )


def predict_request_from_proto(message: pb.PredictRequest) -> PredictRequest:
    """Decode a request.

    Raises:
        InvalidRequestError: There is no system, or an output is unknown.
        InvalidSystemError: A system is invalid; `system_index` says which.
    """
    if not message.systems:
        raise InvalidRequestError.expected("systems", "at least one", "none")
    return PredictRequest(
        model=message.model,
        systems=systems_from_proto(message.systems),
        outputs=outputs_from_proto(message.outputs),
        reply_dtype=dtype_from_proto(message.reply_dtype),
    )


def systems_from_proto(messages: Iterable[pb.System]) -> tuple[System, ...]:
    """Decode systems.

    Raises:
        InvalidSystemError: A system is invalid; `system_index` says which.
    """
    systems = []
    for index, message in enumerate(messages):
        try:
            systems.append(system_from_proto(message))
        except InvalidSystemError as error:
            raise error.at(index) from error
    return tuple(systems)


def prediction_to_proto(prediction: Prediction, dtype: str = "float64") -> pb.Prediction:
    """Encode a prediction; `dtype` applies to its arrays, the energy is always float64."""
    message = pb.Prediction()
    write_prediction(message, prediction, dtype)
    return message


def write_prediction(message: pb.Prediction, prediction: Prediction, dtype: str) -> None:
    """Encode a prediction in place, which takes a fraction of the time of copies."""
    if prediction.energy is not None:
        message.energy = prediction.energy
    for name in _ARRAY_SHAPES:
        if (array := getattr(prediction, name)) is not None:
            write_array(getattr(message, name), array, dtype)


def prediction_from_proto(
    message: pb.Prediction,
    provenance: Provenance | None = None,
    timings: Timings | None = None,
) -> Prediction:
    """Decode a prediction.

    Raises:
        PredictionError: The bytes of an array do not fit its shape.
    """
    arrays = {
        name: array_from_proto(getattr(message, name), name, shape, PredictionError)
        for name, shape in _ARRAY_SHAPES.items()
        if message.HasField(name)
    }
    energy = message.energy if message.HasField("energy") else None
    return Prediction(energy=energy, provenance=provenance, timings=timings, **arrays)


def predict_reply_to_proto(
    model: str, predictions: Sequence[Prediction], dtype: str = "float64"
) -> pb.PredictReply:
    """Encode the predictions of one request, with the timings of the slowest one."""
    message = pb.PredictReply(
        model=model,
        provenance=provenance_to_proto(predictions[0].provenance),
        timings=timings_to_proto(slowest_timings(predictions)),
    )
    for prediction in predictions:
        write_prediction(message.predictions.add(), prediction, dtype)
    return message


def predict_reply_from_proto(message: pb.PredictReply) -> list[Prediction]:
    """Decode the predictions of one request."""
    provenance = provenance_from_proto(message)
    timings = timings_from_proto(message)
    return [prediction_from_proto(each, provenance, timings) for each in message.predictions]


def slowest_timings(predictions: Iterable[Prediction]) -> Timings | None:
    """Return the timings of the prediction that took longest, in the queue and on the device."""
    timings = [each.timings for each in predictions if each.timings is not None]
    return max(timings, key=lambda each: each.queue_s + each.compute_s, default=None)


@lru_cache(maxsize=256)
def provenance_to_proto(provenance: Provenance | None) -> pb.Provenance | None:
    """Encode the provenance of a prediction; the message is shared and must not be changed."""
    if provenance is None:
        return None
    return pb.Provenance(
        model=provenance.model,
        version=provenance.version,
        sha256=provenance.sha256,
        dtype=provenance.dtype,
        device=provenance.device,
        service_version=provenance.service_version,
    )


def provenance_from_proto(reply: _Reply) -> Provenance | None:
    """Decode the provenance of a reply, or return None if it has none."""
    if not reply.HasField("provenance"):
        return None
    message = reply.provenance
    return Provenance(
        model=message.model,
        version=message.version,
        sha256=message.sha256,
        dtype=message.dtype,
        device=message.device,
        service_version=message.service_version,
    )


def timings_to_proto(timings: Timings | None) -> pb.Timings | None:
    """Encode the timings of a prediction."""
    if timings is None:
        return None
    message = pb.Timings()
    write_timings(message, timings)
    return message


def write_timings(message: pb.Timings, timings: Timings) -> None:
    """Encode the timings of a prediction in place."""
    message.queue_s = timings.queue_s
    message.compute_s = timings.compute_s
    message.batch_n_systems = timings.batch_n_systems
    message.batch_n_atoms = timings.batch_n_atoms
    if timings.queue_n_atoms is not None:
        message.queue_n_atoms = timings.queue_n_atoms


def timings_from_proto(
    reply: pb.PredictReply | pb.StreamReply | pb.NonconservativityReply,
) -> Timings | None:
    """Decode the timings of a reply, or return None if it has none."""
    if not reply.HasField("timings"):
        return None
    message = reply.timings
    return Timings(
        queue_s=message.queue_s,
        compute_s=message.compute_s,
        batch_n_systems=message.batch_n_systems,
        batch_n_atoms=message.batch_n_atoms,
        queue_n_atoms=message.queue_n_atoms if message.HasField("queue_n_atoms") else None,
    )


def error_to_proto(error: ServiceError) -> pb.Error:
    """Encode an error."""
    values = error.to_dict()
    values["field"] = values["field"] or ""
    return pb.Error(**values)


def error_from_proto(message: pb.Error) -> ServiceError:
    """Decode an error to the class that it had."""
    return ServiceError.from_dict(
        {
            "type": message.type,
            "message": message.message,
            "system_index": message.system_index if message.HasField("system_index") else None,
            "field": message.field or None,
            "retry_after": message.retry_after if message.HasField("retry_after") else None,
        }
    )


def model_info_to_proto(info: ModelInfo) -> pb.ModelInfo:
    """Encode the description of a model."""
    return pb.ModelInfo(
        name=info.name,
        version=info.version,
        sha256=info.sha256,
        architecture=info.architecture,
        cutoff=info.cutoff,
        elements=info.elements,
        dtype=info.dtype,
        device=info.device,
        outputs=outputs_to_proto(info.outputs),
        n_parameters=info.n_parameters,
        uses_charge=info.uses_charge,
        uses_spin=info.uses_spin,
        units=info.units,
        metadata_json=json.dumps(info.metadata),
        card=info.card,
    )


def model_info_from_proto(message: pb.ModelInfo) -> ModelInfo:
    """Decode the description of a model; outputs that this version does not know are left out."""
    return ModelInfo(
        name=message.name,
        version=message.version,
        sha256=message.sha256,
        architecture=message.architecture,
        cutoff=message.cutoff,
        elements=tuple(message.elements),
        dtype=message.dtype,
        device=message.device,
        outputs=tuple(_OUTPUT_NAMES[each] for each in message.outputs if each in _OUTPUT_NAMES),
        n_parameters=message.n_parameters,
        uses_charge=message.uses_charge,
        uses_spin=message.uses_spin,
        units=dict(message.units),
        metadata=json.loads(message.metadata_json or "{}"),
        card=message.card,
    )
