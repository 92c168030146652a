"""The JSON bodies of REST, to and from the messages that they stand for."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import Message

from twinforce._flow import Method
from twinforce_proto import (
    OUTPUTS,
    ModelInfo,
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
from twinforce_proto.v1 import inference_pb2 as pb


def predict_body(message: pb.PredictRequest) -> dict[str, Any]:
    """Return the body that asks what this message asks."""
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
    provenance = Provenance(**values["provenance"]) if values.get("provenance") else None
    timings = Timings(**values["timings"]) if values.get("timings") else None
    predictions = [
        Prediction(**_arrays(each), provenance=provenance, timings=timings)
        for each in values["predictions"]
    ]
    return predict_reply_to_proto(values["model"], predictions)


def _arrays(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if name == "energy" else np.asarray(value, dtype=np.float64)
        for name, value in values.items()
        if value is not None
    }


def _model_info(values: Mapping[str, Any]) -> pb.ModelInfo:
    return model_info_to_proto(ModelInfo(**values))
