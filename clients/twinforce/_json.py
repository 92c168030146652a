"""The JSON bodies of REST, to and from the messages that they stand for."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import Message

from twinforce._flow import Method
from twinforce_proto import (
    OUTPUTS,
    ModelInfo,
    Nonconservativity,
    Prediction,
    PredictionError,
    Provenance,
    System,
    Timings,
)
from twinforce_proto.codec import (
    model_info_to_proto,
    predict_reply_to_proto,
    predict_request_from_proto,
)
from twinforce_proto.nonconservativity import (
    nonconservativity_reply_to_proto,
    nonconservativity_request_from_proto,
)
from twinforce_proto.v1 import inference_pb2 as pb

_PAIR_NORMS = ("pair_norms", "antisymmetric_pair_norms")


def body_of(message: pb.PredictRequest | pb.NonconservativityRequest) -> dict[str, Any]:
    """Return the body that asks what this message asks."""
    if isinstance(message, pb.NonconservativityRequest):
        wanted = nonconservativity_request_from_proto(message)
        system = _system(wanted.system)
        return {"system": system, "output": wanted.output, "pairs": wanted.pairs}
    request = predict_request_from_proto(message)
    return {
        "systems": [_system(system) for system in request.systems],
        "outputs": [name for name in OUTPUTS if name in request.outputs],
    }


def reply_message(method: Method, values: Any) -> Message:
    """Return the message that this decoded body stands for.

    Raises:
        PredictionError: When it is no such body.
    """
    try:
        if method == "Predict":
            return _predict_reply(values)
        if method == "Nonconservativity":
            return _nonconservativity_reply(values)
        if method == "ListModels":
            return pb.ListModelsReply(models=map(_model_info, values["models"]))
        return _model_info(values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PredictionError(f"reply: not one to {method}: {error!r}") from error


def _system(system: System) -> dict[str, Any]:
    values = {
        "atomic_numbers": system.atomic_numbers.tolist(),
        "positions": system.positions.tolist(),
        "cell": system.cell.tolist() if system.cell.any() else None,
        "pbc": system.pbc.tolist(),
        "charge": system.charge,
        "spin_multiplicity": system.spin_multiplicity,
    }
    return {name: value for name, value in values.items() if value is not None}


def _predict_reply(values: Mapping[str, Any]) -> pb.PredictReply:
    origin = _origin(values)
    predictions = [Prediction(**_arrays(each), **origin) for each in values["predictions"]]
    return predict_reply_to_proto(values["model"], predictions)


def _nonconservativity_reply(values: Mapping[str, Any]) -> pb.NonconservativityReply:
    arrays = {name: np.asarray(values[name]) for name in _PAIR_NORMS if name in values}
    known: dict[str, Any] = arrays | _origin(values)
    norms = {name: values[name] for name in ("value", "jacobian_norm", "antisymmetric_norm")}
    found = Nonconservativity(**norms, **known)
    return nonconservativity_reply_to_proto(values["model"], found)


def _origin(values: Mapping[str, Any]) -> dict[str, Any]:
    provenance = Provenance(**values["provenance"]) if values.get("provenance") else None
    timings = Timings(**values["timings"]) if values.get("timings") else None
    return {"provenance": provenance, "timings": timings}


def _arrays(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if name == "energy" else np.asarray(value, dtype=np.float64)
        for name, value in values.items()
        if value is not None
    }


def _model_info(values: Mapping[str, Any]) -> pb.ModelInfo:
    return model_info_to_proto(ModelInfo(**values))
