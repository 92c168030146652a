"""Bodies over REST: JSON, with raw bytes of tensors behind it where the JSON says so."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from twinforce_proto import InvalidRequestError
from twinforce_service.calls.bounds import CallLimits
from twinforce_service.transports.open_inference.infer_reply import InferReply
from twinforce_service.transports.open_inference.infer_request import (
    InferRequest,
    RequestedOutput,
)
from twinforce_service.transports.open_inference.parameters import (
    check_tensor_parameters,
    is_set,
    options_of,
)
from twinforce_service.transports.open_inference.tensors import (
    DTYPES,
    INPUTS,
    OUTPUT_KINDS,
    Tensor,
    TensorHead,
)

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Name of the HTTP header that gives the length of the JSON, if raw bytes follow it."""

BINARY = "application/octet-stream"

_SIZE = "binary_data_size"
# Elements of all tensors per atom and per system; all other values of a request.
_VALUES_PER_ATOM, _VALUES_PER_SYSTEM, _OTHER_VALUES = 4, 15, 1000
# Objects of a request, and members of each on average.
_MAX_OBJECTS, _MAX_MEMBERS = 64, 16
# Lists of a request beside the rows of its tensors: per atom and per system.
_LISTS_PER_ATOM, _LISTS_PER_SYSTEM = 1, 5
# Counting in parts lets other threads run in between.
_PART = 2**20

Parameters = Annotated[
    dict[str, Any], Field(description="Bools, numbers and texts by name; see /docs of the service.")
]


class InputTensorBody(BaseModel):
    """A tensor of a request."""

    model_config = ConfigDict(strict=True)

    name: str = Field(description=f"One of {', '.join(INPUTS)}.")
    datatype: str = Field(description=f"One of {', '.join(DTYPES)}.")
    shape: Annotated[list[int], FailFast()] = Field(description="Length along each axis.")
    parameters: Parameters = Field(default={})
    data: list[Any] | None = Field(
        None, description="The elements, row-major; nested like the axes, or all in one list."
    )


class RequestedOutputBody(BaseModel):
    """A tensor to reply with."""

    model_config = ConfigDict(strict=True)

    name: str = Field(description=f"One of {', '.join(OUTPUT_KINDS)}.")
    parameters: Parameters = Field(default={})


class InferBody(BaseModel):
    """Systems as tensors, and the tensors to reply with."""

    model_config = ConfigDict(strict=True)

    id: str = Field("", description="Identifier that the reply repeats.")
    parameters: Parameters = Field(default={})
    inputs: Annotated[list[InputTensorBody], FailFast()] = Field(min_length=1)
    outputs: Annotated[list[RequestedOutputBody], FailFast()] = Field(
        default=[], description="Tensors to reply with; all of the model by default."
    )


class IndexBody(BaseModel):
    """A choice of models."""

    model_config = ConfigDict(strict=True)

    ready: bool = Field(False, description="True to list only models that are ready.")


def read_infer(body: bytes, header_length: str | None, limits: CallLimits) -> InferRequest:
    """Return the request in a body.

    Args:
        body: The JSON, and the raw bytes of tensors.
        header_length: Length of the JSON as the client gives it; None if there is nothing else.
        limits: Limits of a call.

    Raises:
        InvalidRequestError: The body is invalid, or has too many values.
    """
    size = _length_of_json(header_length, len(body))
    _check_counts(body, size, limits)
    try:
        values = InferBody.model_validate_json(memoryview(body)[:size].tobytes())
    except ValidationError as error:
        raise _error_of(error) from error
    options = options_of(values.parameters)
    requested = [RequestedOutput(each.name, each.parameters) for each in values.outputs]
    for each in requested:
        check_tensor_parameters(each.parameters)
        is_set(each.parameters, "binary_data", default=options.is_binary)
    return InferRequest(values.id, options, _tensors(values.inputs, body, size, limits), requested)


def write_infer(infer: InferRequest, reply: InferReply) -> tuple[bytes, int | None]:
    """Return the body of a reply, and the length of its JSON if raw bytes follow it."""
    is_binary = {
        each.name: is_set(each.parameters, "binary_data", default=infer.options.is_binary)
        for each in infer.requested
    }
    outputs: list[Mapping[str, Any]] = []
    raw: list[bytes] = []
    for tensor in reply.tensors:
        head = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.array.shape}
        if is_binary.get(tensor.name, infer.options.is_binary):
            raw.append(tensor.to_bytes())
            outputs.append(head | {"parameters": {_SIZE: len(raw[-1])}})
        else:
            outputs.append(head | {"data": tensor.array.ravel()})
    values = {
        "model_name": reply.model,
        "model_version": reply.version,
        "id": reply.label,
        "parameters": reply.parameters,
        "outputs": outputs,
    }
    header = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((header, *raw)), len(header)) if raw else (header, None)


def is_only_ready(body: bytes) -> bool:
    """Return True if the body of a request for the list of models asks for the ready ones alone.

    Raises:
        InvalidRequestError: The body is invalid.
    """
    try:
        return IndexBody.model_validate_json(body or b"{}").ready
    except ValidationError as error:
        raise _error_of(error) from error


def _length_of_json(given: str | None, n_bytes: int) -> int:
    if given is None:
        return n_bytes
    if not (given.isascii() and given.isdecimal()) or len(given) > 20 or int(given) > n_bytes:
        expected = f"a whole number up to {n_bytes}, the length of the body"
        raise InvalidRequestError.expected(HEADER_LENGTH, expected, repr(given))
    return int(given)


def _tensors(
    inputs: Sequence[InputTensorBody], body: bytes, begin: int, limits: CallLimits
) -> list[Tensor]:
    """Return the tensors of a request, whose raw bytes begin at a place of the body."""
    tensors, place, view = [], begin, memoryview(body)
    for each in inputs:
        head = TensorHead.of(each.name, each.datatype, each.shape)
        head.check(limits)
        check_tensor_parameters(each.parameters)
        size = each.parameters.get(_SIZE)
        if size is None and each.data is not None:
            tensors.append(head.of_values(each.data))
        elif size is not None and each.data is None:
            _check_size(head, size)
            # A copy, because numbers that begin at any byte would be slow to compute with.
            tensors.append(head.of_bytes(view[place : place + head.n_bytes].tobytes()))
            place += head.n_bytes
        else:
            expected = f"either data, or raw bytes and the parameter {_SIZE}"
            got = "neither" if size is None else "both"
            raise InvalidRequestError.expected(head.name, expected, got)
    if place != len(body):
        expected = f"{place - begin} bytes behind the JSON, which those of the tensors add up to"
        raise InvalidRequestError.expected("body", expected, len(body) - begin)
    return tensors


def _check_size(head: TensorHead, size: object) -> None:
    if isinstance(size, bool) or size != head.n_bytes:
        text = f"{head.n_bytes}, as {head.datatype} of shape {list(head.shape)} takes as many bytes"
        raise InvalidRequestError.expected(f"{head.name}.parameters.{_SIZE}", text, repr(size))


def _check_counts(body: bytes, size: int, limits: CallLimits) -> None:
    """Refuse JSON that would become too many objects."""
    n_values = _OTHER_VALUES + _VALUES_PER_ATOM * limits.max_atoms
    n_values += _VALUES_PER_SYSTEM * limits.max_systems
    n_lists = _OTHER_VALUES + _LISTS_PER_ATOM * limits.max_atoms
    n_lists += _LISTS_PER_SYSTEM * limits.max_systems
    atoms, n_members = f"{limits.max_atoms} atoms (max_atoms_per_call)", _MAX_OBJECTS * _MAX_MEMBERS
    bounds = (
        (b"{", "objects", _MAX_OBJECTS, f"{_MAX_OBJECTS} objects"),
        (b":", "members", n_members, f"{n_members} members"),
        (b"[", "lists", n_lists, atoms),
        (b",", "values", n_values, atoms),
    )
    for mark, name, most, expected in bounds:
        if (n_marks := _count(body, mark, size)) > most:
            got = f"{n_marks} {name}"
            raise InvalidRequestError.expected("body", f"at most {expected}", got)


def _count(body: bytes, mark: bytes, size: int) -> int:
    begins = range(0, size, _PART)
    return sum(body.count(mark, begin, min(begin + _PART, size)) for begin in begins)


def _error_of(invalid: ValidationError) -> InvalidRequestError:
    """Return the first validation error."""
    first = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
    place = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in first["loc"])
    place = place.lstrip(".") or "body"
    message = first["msg"]
    return InvalidRequestError(f"{place}: {message[:1].lower()}{message[1:]}", field=place)
