"""The bodies of REST, JSON and protobuf, to what was asked and from what was predicted."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any, TypeVar

import numpy as np
import orjson
from google.protobuf.message import DecodeError
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from twinforce_proto import (
    DEFAULT_OUTPUTS,
    FORCES,
    OUTPUTS,
    InvalidRequestError,
    InvalidSystemError,
    Nonconservativity,
    NonconservativityRequest,
    Prediction,
    PredictRequest,
    ServiceError,
    System,
    parse_outputs,
)
from twinforce_proto.codec.messages import (
    outputs_to_proto,
    predict_reply_to_proto,
    predict_request_from_proto,
    slowest_timings,
)
from twinforce_proto.codec.nonconservativity import (
    nonconservativity_reply_to_proto,
    nonconservativity_request_from_proto,
)
from twinforce_proto.v1 import inference_pb2 as pb

_Message = TypeVar(
    "_Message",
    pb.PredictRequest,
    pb.NonconservativityRequest,
    pb.PropagateRequest,
    pb.RelaxRequest,
)


Number = Annotated[float, Field(allow_inf_nan=False)]
Vector = tuple[Number, Number, Number]


class _First(FailFast):
    """Of a list full of mistakes, only the first is looked for."""

    __hash__ = object.__hash__  # or there could be no union with it


class SystemBody(BaseModel):
    """One atomistic system."""

    model_config = ConfigDict(extra="forbid", strict=True)

    atomic_numbers: Annotated[list[int], _First()] = Field(description="1 to 118, one per atom.")
    positions: Annotated[list[Vector], _First()] = Field(description="One row per atom, in Å.")
    cell: tuple[Vector, Vector, Vector] | None = Field(
        None, description="Lattice vectors as rows, in Å."
    )
    pbc: tuple[bool, bool, bool] | bool | None = Field(
        None, description="Periodic along each lattice vector; none by default."
    )
    charge: Number | None = Field(None, description="Total charge, in elementary charges.")
    spin_multiplicity: int | None = Field(None, description="2S + 1.")


class SystemsBody(BaseModel):
    """Systems to evaluate."""

    model_config = ConfigDict(extra="forbid", strict=True)

    systems: Annotated[list[SystemBody], _First()] = Field(min_length=1)


class PredictBody(SystemsBody):
    """Systems to evaluate, and what is wanted of each."""

    outputs: Annotated[list[str], _First()] | None = Field(
        None,
        description=f"Any of {', '.join(OUTPUTS)}, or hybrid (the energy and both forces); "
        "energy and conservative_forces by default.",
    )


class NonconservativityBody(BaseModel):
    """A system, and which of its forces are to be looked at."""

    model_config = ConfigDict(extra="forbid", strict=True)

    system: SystemBody
    output: str = Field(FORCES[0], description=f"One of {', '.join(FORCES)}.")
    pairs: bool = Field(False, description="Whether norms of each pair of atoms are wanted too.")


def read_json(body: bytes, model: str, fixed: frozenset[str] | None) -> PredictRequest:
    """Decode a JSON body.

    Args:
        body: As it came.
        model: The name in the path.
        fixed: The outputs that the path stands for; None where the body names them.

    Raises:
        InvalidRequestError: When it is no such body.
        InvalidSystemError: When a system is; says which.
    """
    kind = PredictBody if fixed is None else SystemsBody
    try:
        parsed = kind.model_validate_json(body)
    except ValidationError as error:
        raise reported(error) from error
    outputs = fixed or frozenset(DEFAULT_OUTPUTS)
    if isinstance(parsed, PredictBody) and parsed.outputs is not None:
        outputs = parse_outputs(parsed.outputs)
    systems = tuple(_listed_system(index, each) for index, each in enumerate(parsed.systems))
    return PredictRequest(model, systems, outputs)


def read_protobuf(body: bytes, model: str, fixed: frozenset[str] | None) -> PredictRequest:
    """Decode a serialized `twinforce.v1.PredictRequest`; arguments and errors as `read_json`."""
    message = parsed_message(pb.PredictRequest, body, model)
    if fixed is not None and not message.outputs:
        message.outputs.extend(outputs_to_proto(fixed))
    wanted = predict_request_from_proto(message)
    if fixed is not None and wanted.outputs != fixed:
        text = f"outputs: this path gives {', '.join(sorted(fixed))}; for others use /predict"
        raise InvalidRequestError(text, field="outputs")
    return wanted


def write_json(wanted: PredictRequest, predictions: Sequence[Prediction]) -> bytes:
    """Encode predictions as JSON; the timings are those of the slowest."""
    reply = {
        "model": wanted.model,
        "predictions": [_outputs(prediction) for prediction in predictions],
        "provenance": predictions[0].provenance,
        "timings": slowest_timings(predictions),
    }
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)


def write_protobuf(wanted: PredictRequest, predictions: Sequence[Prediction]) -> bytes:
    """Encode predictions as a serialized `twinforce.v1.PredictReply`."""
    reply = predict_reply_to_proto(wanted.model, predictions, wanted.reply_dtype)
    return reply.SerializeToString()


def read_nonconservativity_json(body: bytes, model: str) -> NonconservativityRequest:
    """Decode a JSON body; arguments and errors as `read_json`."""
    try:
        parsed = NonconservativityBody.model_validate_json(body)
    except ValidationError as error:
        raise reported(error) from error
    system = system_of(parsed.system)
    return NonconservativityRequest(model, system, parsed.output, parsed.pairs)


def read_nonconservativity_protobuf(body: bytes, model: str) -> NonconservativityRequest:
    """Decode a `twinforce.v1.NonconservativityRequest`; arguments and errors as `read_json`."""
    message = parsed_message(pb.NonconservativityRequest, body, model)
    return nonconservativity_request_from_proto(message)


def write_nonconservativity_json(model: str, found: Nonconservativity) -> bytes:
    """Encode how far forces are from being a gradient, as JSON."""
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    for name in ("pair_norms", "antisymmetric_pair_norms"):
        norms = values.pop(name)
        if norms is not None:
            values[name] = norms.astype(np.float32)
    return orjson.dumps({"model": model} | values, option=orjson.OPT_SERIALIZE_NUMPY)


def write_nonconservativity_protobuf(model: str, found: Nonconservativity) -> bytes:
    """Encode it as a serialized `twinforce.v1.NonconservativityReply`."""
    return nonconservativity_reply_to_proto(model, found).SerializeToString()


def parsed_message(kind: type[_Message], body: bytes, model: str) -> _Message:
    """Return the message that a body is, with the model of the path.

    Raises:
        InvalidRequestError: When it is none, or names another model.
    """
    try:
        message = kind.FromString(body)
    except DecodeError as error:
        name = kind.DESCRIPTOR.full_name
        text = f"body: expected a {name} message, got {len(body)} other bytes"
        raise InvalidRequestError(text, field="body") from error
    if message.model not in ("", model):
        text = f"model: expected {model!r} as in the path, or none, got {message.model!r}"
        raise InvalidRequestError(text, field="model")
    message.model = model
    return message


def _listed_system(index: int, body: SystemBody) -> System:
    try:
        return system_of(body)
    except InvalidSystemError as error:
        raise error.at(index) from error


def system_of(body: SystemBody) -> System:
    """Return the system that a body describes.

    Raises:
        InvalidSystemError: When it is invalid.
    """
    return System(
        atomic_numbers=body.atomic_numbers,
        positions=body.positions,
        cell=body.cell,
        pbc=body.pbc,
        charge=body.charge,
        spin_multiplicity=body.spin_multiplicity,
    )


def _outputs(prediction: Prediction) -> dict[str, Any]:
    values = {name: getattr(prediction, name) for name in OUTPUTS}
    return {name: value for name, value in values.items() if value is not None}


def reported(error: ValidationError, within: str = "") -> ServiceError:
    """Return the error of the tree for the first mistake that was found.

    Args:
        error: Of a body.
        within: Which field of it, if that is an object of its own, needs no mention.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    location = first["loc"]
    if within and location[:1] == (within,):
        location = location[1:] or location
    match location:
        case ("systems", int(index), str(field), *rest):
            text = _text(_place(field, rest), first["msg"])
            return InvalidSystemError(text, system_index=index, field=field)
        case ("system", str(field), *rest):
            return InvalidSystemError(_text(_place(field, rest), first["msg"]), field=field)
        case ("systems", int(index)):
            return InvalidSystemError(_text("system", first["msg"]), system_index=index)
        case (str(field), *_):
            return InvalidRequestError(_text(field, first["msg"]), field=field)
        case _:
            return InvalidRequestError(_text("body", first["msg"]), field="body")


def _place(field: str, rest: Sequence[int | str]) -> str:
    return field + "".join(f"[{each}]" for each in rest if isinstance(each, int))


def _text(place: str, message: str) -> str:
    return f"{place}: {message[:1].lower()}{message[1:]}"
