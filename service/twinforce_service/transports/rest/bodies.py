"""The JSON bodies of predictions and of nonconservativity."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Annotated, Any, TypeVar

import numpy as np
import orjson
from google.protobuf.message import Message
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, WithJsonSchema

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
    predict_request_from_proto,
    slowest_timings,
)
from twinforce_proto.errors import quoted
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_service.calls.bounds import CallLimits, parsed
from twinforce_service.calls.conversion import MAX_BYTES_INLINE
from twinforce_service.transports.rest.counting import (
    check_alone,
    check_counts,
    check_one_system,
    divided,
    values_of,
)

_Message = TypeVar("_Message", bound=Message)


Number = Annotated[float, Field(allow_inf_nan=False)]
Vector = tuple[Number, Number, Number]
# Their bounds are checked elsewhere; the description tells them.
_Element = Annotated[int, WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 118})]
_Output = Annotated[str, WithJsonSchema({"type": "string", "enum": [*OUTPUTS, "hybrid"]})]
_ForcesOutput = Annotated[str, WithJsonSchema({"type": "string", "enum": [*FORCES]})]


class _First(FailFast):
    """Stops the validation of a list at its first error."""

    __hash__ = object.__hash__  # needed to form a union with the annotated type


class SystemBody(BaseModel):
    """An atomistic system."""

    model_config = ConfigDict(extra="forbid", strict=True)

    atomic_numbers: Annotated[list[_Element], _First()] = Field(
        description="Atomic number of each atom, 1 to 118."
    )
    positions: Annotated[list[Vector], _First()] = Field(description="One row per atom, in Å.")
    cell: tuple[Vector, Vector, Vector] | None = Field(
        None, description="Lattice vectors as rows, in Å."
    )
    pbc: tuple[bool, bool, bool] | bool | None = Field(
        None,
        description="True for each lattice vector along which the system is periodic, or one value "
        "for all three; false by default.",
    )
    charge: Number | None = Field(None, description="Total charge, in elementary charges.")
    spin_multiplicity: int | None = Field(None, description="Spin multiplicity, 2S + 1.")


class SystemsBody(BaseModel):
    """Systems to evaluate."""

    model_config = ConfigDict(extra="forbid", strict=True)

    systems: Annotated[list[SystemBody], _First()] = Field(min_length=1)


# The system that stands for those of a body which are read one by one.
_ATOM = SystemBody.model_validate({"atomic_numbers": [1], "positions": [(0.0, 0.0, 0.0)]})


class PredictBody(SystemsBody):
    """Systems and outputs to evaluate."""

    outputs: Annotated[list[_Output], _First()] | None = Field(
        None,
        description=f"Any of {', '.join(OUTPUTS)}, or hybrid (the energy and both forces); "
        "energy and conservative_forces by default.",
    )


class NonconservativityBody(BaseModel):
    """A system, and the kind of its forces to measure."""

    model_config = ConfigDict(extra="forbid", strict=True)

    system: SystemBody
    output: _ForcesOutput = Field(FORCES[0], description=f"One of {', '.join(FORCES)}.")
    pairs: bool = Field(False, description="True to get the norms of each pair of atoms as well.")


def read_predict_json(body: bytes, model: str, limits: CallLimits) -> PredictRequest:
    """Decode a body that names its outputs.

    Raises:
        InvalidRequestError: The body is invalid, or of too many systems or atoms.
        InvalidSystemError: A system is invalid; the error says which.
        SystemTooLargeError: A system has too many atoms.
    """
    values, systems = _with_systems(PredictBody, body, limits)
    outputs = DEFAULT_OUTPUTS if values.outputs is None else values.outputs
    return PredictRequest(model, tuple(systems), parse_outputs(outputs))


def read_fixed_json(
    outputs: frozenset[str], body: bytes, model: str, limits: CallLimits
) -> PredictRequest:
    """Decode a body for a path with these outputs; errors as for `read_predict_json`."""
    _, systems = _with_systems(SystemsBody, body, limits)
    return PredictRequest(model, tuple(systems), outputs)


def decode_fixed(outputs: frozenset[str], message: pb.PredictRequest) -> PredictRequest:
    """Decode a message for a path with these outputs, which the message need not name.

    Raises:
        InvalidRequestError: The message is invalid or names other outputs.
        InvalidSystemError: A system is invalid; the error says which.
    """
    if not message.outputs:
        message.outputs.extend(outputs_to_proto(outputs))
    request = predict_request_from_proto(message)
    if request.outputs != outputs:
        expected = f"{', '.join(sorted(outputs))} or none on this path"
        got = f"{', '.join(sorted(request.outputs))}; use /predict for other outputs"
        raise InvalidRequestError.expected("outputs", expected, got)
    return request


def write_predict_json(request: PredictRequest, predictions: Sequence[Prediction]) -> bytes:
    """Encode predictions; the timings are those of the slowest."""
    reply = {
        "model": request.model,
        "predictions": [_fragment(_outputs(prediction)) for prediction in predictions],
        "provenance": predictions[0].provenance,
        "timings": slowest_timings(predictions),
    }
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)


def read_nonconservativity_json(
    body: bytes, model: str, limits: CallLimits
) -> NonconservativityRequest:
    """Decode a body; errors as for `read_predict_json`."""
    if len(body) > MAX_BYTES_INLINE:
        check_one_system(body, limits)
    values = _parsed(NonconservativityBody, body)
    system = system_of(values.system)
    return NonconservativityRequest(model, system, values.output, values.pairs)


def write_nonconservativity_json(
    request: NonconservativityRequest, found: Nonconservativity
) -> bytes:
    """Encode λ and the norms, those of pairs of atoms in single precision."""
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    for name in ("pair_norms", "antisymmetric_pair_norms"):
        norms = values.pop(name)
        if norms is not None:
            values[name] = [_fragment(row) for row in norms.astype(np.float32)]
    return orjson.dumps({"model": request.model} | values, option=orjson.OPT_SERIALIZE_NUMPY)


def parsed_message(kind: type[_Message], body: bytes, model: str, limits: CallLimits) -> _Message:
    """Return the message in a body, with the model of the path.

    Raises:
        InvalidRequestError: The body is not such a message, names another model, or has too many
            parts.
    """
    limits.check_wire(body, kind)
    message: Any = parsed(kind, body)
    if message.model not in ("", model):
        expected = f"{model!r} as in the path, or none"
        raise InvalidRequestError.expected("model", expected, quoted(message.model))
    message.model = model
    return message  # type: ignore[no-any-return]


def system_of(body: SystemBody) -> System:
    """Return the system that a body describes.

    Raises:
        InvalidSystemError: The system is invalid.
    """
    return System(
        atomic_numbers=body.atomic_numbers,
        positions=body.positions,
        cell=body.cell,
        pbc=body.pbc,
        charge=body.charge,
        spin_multiplicity=body.spin_multiplicity,
    )


def error_of(
    invalid: ValidationError, within: str = "", place: tuple[int | str, ...] = ()
) -> ServiceError:
    """Return the first validation error as a `ServiceError`.

    Args:
        invalid: Errors that pydantic found in a body, or in a part of it.
        within: Name of a field that holds an object and is left out of the message.
        place: Place of the part in the body.
    """
    first = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
    location = place + first["loc"]
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


_Body = TypeVar("_Body", bound=BaseModel)


def _parsed(kind: type[_Body], body: bytes) -> _Body:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise error_of(error) from error


_Systems = TypeVar("_Systems", bound=SystemsBody)


def _with_systems(
    kind: type[_Systems], body: bytes, limits: CallLimits
) -> tuple[_Systems, Iterator[System]]:
    """Return a body, of which a large one has an atom in place of its systems, and its systems."""
    if len(body) <= MAX_BYTES_INLINE:
        whole = _parsed(kind, body)
        return whole, (_listed_system(index, each) for index, each in enumerate(whole.systems))
    check_counts(body, limits)
    parts = divided(body)
    limits.check_systems(len(parts.systems))
    values = values_of(parts.rest, len(parts.systems))
    try:
        rest = kind.model_validate(values | {"systems": [_ATOM] * bool(parts.systems)})
    except ValidationError as error:
        raise error_of(error) from error
    return rest, (_divided_system(i, body[each], limits) for i, each in enumerate(parts.systems))


def _divided_system(index: int, body: bytes, limits: CallLimits) -> System:
    check_alone(body, limits, index)
    try:
        return _listed_system(index, SystemBody.model_validate_json(body))
    except ValidationError as error:
        raise error_of(error, place=("systems", index)) from error


def _listed_system(index: int, body: SystemBody) -> System:
    try:
        return system_of(body)
    except InvalidSystemError as error:
        raise error.at(index) from error


def _fragment(value: object) -> orjson.Fragment:
    """Return a part of a reply as JSON; other threads run between one part and the next."""
    return orjson.Fragment(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


def _outputs(prediction: Prediction) -> dict[str, Any]:
    values = {name: getattr(prediction, name) for name in OUTPUTS}
    return {name: value for name, value in values.items() if value is not None}


def _place(field: str, rest: Sequence[int | str]) -> str:
    return field + "".join(f"[{each}]" for each in rest if isinstance(each, int))


def _text(place: str, message: str) -> str:
    return f"{place}: {message[:1].lower()}{message[1:]}"
