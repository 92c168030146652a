"""Conversion between protobuf messages and the JSON bodies of REST."""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message

from twinforce._transports.transport import Method
from twinforce_dynamics.codec.propagation import snapshot_to_proto, start_from_proto
from twinforce_dynamics.codec.relaxation import relax_request_from_proto, relaxed_to_proto
from twinforce_dynamics.disagreement import Disagreement
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.trajectory import Snapshot
from twinforce_dynamics.units import FS
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
from twinforce_proto.codec.messages import (
    model_info_to_proto,
    predict_reply_to_proto,
    predict_request_from_proto,
)
from twinforce_proto.codec.nonconservativity import (
    nonconservativity_reply_to_proto,
    nonconservativity_request_from_proto,
)
from twinforce_proto.codec.problem import error_from_problem
from twinforce_proto.v1 import inference_pb2 as pb

_TIMINGS = tuple(each.name for each in fields(Timings))
_PAIR_NORMS = ("pair_norms", "antisymmetric_pair_norms")


def body_of(
    message: pb.PredictRequest
    | pb.NonconservativityRequest
    | pb.PropagateRequest
    | pb.RelaxRequest,
) -> dict[str, Any]:
    """Return the JSON body of the request that a message holds."""
    if isinstance(message, pb.PropagateRequest):
        return _propagate_body(message)
    if isinstance(message, pb.RelaxRequest):
        return _relax_body(message)
    if isinstance(message, pb.NonconservativityRequest):
        return _nonconservativity_body(message)
    request = predict_request_from_proto(message)
    return {
        "systems": [_system(system) for system in request.systems],
        "outputs": [name for name in OUTPUTS if name in request.outputs],
    }


def reply_message(method: Method, values: Any) -> Message:
    """Return the message for the decoded body of a reply.

    Raises:
        PredictionError: The body is not a reply to this method.
    """
    try:
        if method == "Predict":
            return _predict_reply(values)
        if method == "Nonconservativity":
            return _nonconservativity_reply(values)
        if method == "ListModels":
            return pb.ListModelsReply(models=map(_model_info, values["models"]))
        if method == "GetStatus":  # without what a newer service may have added
            return ParseDict(values, pb.ServiceStatus(), ignore_unknown_fields=True)
        return _model_info(values)
    except (AttributeError, KeyError, ParseError, TypeError, ValueError) as error:
        raise PredictionError(f"reply: invalid body of a reply to {method}: {error!r}") from error


def line_message(method: Method, line: str) -> pb.Snapshot | pb.Relaxed:
    """Return the message for one line of a streamed reply.

    Raises:
        ServiceError: The error that the line reports.
        PredictionError: The line does not belong to a reply to this method.
    """
    try:
        values = json.loads(line)
        problem = values.get("error")
        if problem is None:
            if method == "Relax":
                return relaxed_to_proto(_relaxed(values))
            return snapshot_to_proto(_snapshot(values))
        status = int(problem["status"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PredictionError(f"reply: invalid line of a reply to {method}: {error!r}") from error
    raise error_from_problem(problem, status)


def _snapshot(values: dict[str, Any]) -> Snapshot:
    fields = values | {name: np.asarray(values[name]) for name in ("positions", "cell")}
    fields["velocities"] = np.asarray(values["velocities"]) / FS
    fields["checkpoint"] = base64.b64decode(values["checkpoint"])
    fields["species_temperatures"] = {
        symbol: math.nan if temperature is None else temperature
        for symbol, temperature in values["species_temperatures"].items()
    }
    if "disagreement" in values:
        fields["disagreement"] = Disagreement(**values["disagreement"])
    fields["provenance"] = _provenance(values)
    return Snapshot(**fields)


def _relaxed(values: dict[str, Any]) -> Relaxed:
    positions = np.asarray(values["positions"])
    return Relaxed(**values | {"positions": positions, "provenance": _provenance(values)})


def _nonconservativity_body(message: pb.NonconservativityRequest) -> dict[str, Any]:
    request = nonconservativity_request_from_proto(message)
    system = _system(request.system)
    return {"system": system, "output": request.output, "pairs": request.pairs}


def _relax_body(message: pb.RelaxRequest) -> dict[str, Any]:
    request = relax_request_from_proto(message)
    return {
        "system": _system(request.system),
        "force_kind": request.force_kind,
        "fmax": request.fmax,
        "max_steps": request.max_steps,
        "interval": request.interval,
        "fixed_atoms": request.fixed_atoms.tolist(),
    }


def _propagate_body(message: pb.PropagateRequest) -> dict[str, Any]:
    body: dict[str, Any] = {"n_steps": message.n_steps, "interval": message.interval}
    if message.allow_model_change:
        body["allow_model_change"] = True
    if not message.HasField("start"):
        return body | {"checkpoint": base64.b64encode(message.checkpoint).decode()}
    start = start_from_proto(message.start)
    return body | {
        "start": {
            "system": _system(start.system),
            "velocities": (start.velocities * FS).tolist(),
            "masses": start.masses.tolist(),
            "fixed_atoms": start.fixed_atoms.tolist(),
            "integrator": _integrator_body(message.start.integrator),
            "random_state": _message_body(message.start.random_state),
        }
    }


def _integrator_body(message: pb.Integrator) -> dict[str, Any]:
    kind = pb.ForceKind.Name(message.force_kind).removeprefix("FORCE_KIND_").lower()
    return _message_body(message) | {"force_kind": kind}


def _message_body(message: Message) -> dict[str, Any]:
    """Return the fields of a message, with bytes in base64."""
    return MessageToDict(message, preserving_proto_field_name=True)


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
    shared: dict[str, Any] = {"provenance": _provenance(values), "timings": _timings(values)}
    predictions = [Prediction(**_arrays(each), **shared) for each in values["predictions"]]
    return predict_reply_to_proto(values["model"], predictions)


def _nonconservativity_reply(values: Mapping[str, Any]) -> pb.NonconservativityReply:
    pair_norms: dict[str, Any] = {
        name: np.asarray(values[name]) for name in _PAIR_NORMS if name in values
    }
    nonconservativity = Nonconservativity(
        value=values["value"],
        jacobian_norm=values["jacobian_norm"],
        antisymmetric_norm=values["antisymmetric_norm"],
        provenance=_provenance(values),
        timings=_timings(values),
        **pair_norms,
    )
    return nonconservativity_reply_to_proto(values["model"], nonconservativity)


def _provenance(values: Mapping[str, Any]) -> Provenance | None:
    return Provenance(**values["provenance"]) if values.get("provenance") else None


def _timings(values: Mapping[str, Any]) -> Timings | None:
    """Return the timings of a reply, without what a newer service may have added to them."""
    given = values.get("timings") or {}
    known = {name: given[name] for name in _TIMINGS if name in given}
    return Timings(**known) if known else None


def _arrays(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if name == "energy" else np.asarray(value, dtype=np.float64)
        for name, value in values.items()
        if value is not None
    }


def _model_info(values: Mapping[str, Any]) -> pb.ModelInfo:
    return model_info_to_proto(ModelInfo(**values))
