"""Messages over gRPC: the tensors of a request, and those of a reply."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.json_format import ParseDict

from twinforce_proto import InvalidRequestError
from twinforce_proto.codec.wire import WireCounts, wire_counts
from twinforce_proto.open_inference import protocol_pb2 as pb
from twinforce_service.calls.bounds import CallLimits, parsed
from twinforce_service.transports.open_inference.infer_reply import InferReply
from twinforce_service.transports.open_inference.infer_request import (
    InferRequest,
    RequestedOutput,
)
from twinforce_service.transports.open_inference.parameters import (
    check_tensor_parameters,
    options_of,
)
from twinforce_service.transports.open_inference.tensors import Tensor, TensorHead

# Fields of a request, those of messages inside it included: tensors and parameters are few.
_MAX_FIELDS = 2000
# No systems of our own are inside.
_MOST = WireCounts(_MAX_FIELDS, 0, 0)
_CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def parsed_request(data: bytes) -> pb.ModelInferRequest:
    """Return the message in these bytes.

    Raises:
        InvalidRequestError: They are no such message, or it has too many fields.
    """
    counts = wire_counts(data, pb.ModelInferRequest, _MOST)
    if counts.n_fields > _MAX_FIELDS:
        expected = f"at most {_MAX_FIELDS} fields, with packed contents of tensors"
        raise InvalidRequestError.expected("body", expected, "more")
    return parsed(pb.ModelInferRequest, data)


def read_infer(message: pb.ModelInferRequest, limits: CallLimits) -> InferRequest:
    """Return the request in a message.

    Args:
        message: The message.
        limits: Limits of a call.

    Raises:
        InvalidRequestError: The message is invalid, or of too many systems or atoms.
    """
    heads = [_head(each, limits) for each in message.inputs]
    read = _raw_tensors if message.raw_input_contents else _tensors
    tensors = read(message, heads)
    for each in message.inputs:
        check_tensor_parameters(_values(each.parameters))
    for output in message.outputs:
        check_tensor_parameters(_values(output.parameters))
    requested = [RequestedOutput(each.name) for each in message.outputs]
    return InferRequest(message.id, options_of(_values(message.parameters)), tensors, requested)


def write_infer(reply: InferReply) -> bytes:
    """Return the bytes of the message of a reply, whose tensors are raw bytes."""
    message = pb.ModelInferResponse(
        model_name=reply.model, model_version=reply.version, id=reply.label
    )
    for name, value in reply.parameters.items():
        _write_parameter(message.parameters[name], value)
    for tensor in reply.tensors:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        message.raw_output_contents.append(tensor.to_bytes())
    return message.SerializeToString()


def write_description(kind: Any, values: Mapping[str, Any]) -> bytes:
    """Return the bytes of a message with these values, which have the names of its fields.

    Args:
        kind: Class of the message.
        values: Values as in JSON.
    """
    message = ParseDict(values, kind())
    data: bytes = message.SerializeToString()
    return data


def _head(tensor: pb.ModelInferRequest.InferInputTensor, limits: CallLimits) -> TensorHead:
    head = TensorHead.of(tensor.name, tensor.datatype, tensor.shape)
    head.check(limits)
    return head


def _raw_tensors(message: pb.ModelInferRequest, heads: Sequence[TensorHead]) -> list[Tensor]:
    if len(message.raw_input_contents) != len(message.inputs):
        expected = f"{len(message.inputs)}, one for each of inputs"
        got = len(message.raw_input_contents)
        raise InvalidRequestError.expected("raw_input_contents", expected, got)
    tensors = []
    for head, each, data in zip(heads, message.inputs, message.raw_input_contents, strict=True):
        if each.HasField("contents"):
            raise InvalidRequestError.expected(
                head.name, "either contents or raw_input_contents", "both"
            )
        tensors.append(head.of_bytes(data))
    return tensors


def _tensors(message: pb.ModelInferRequest, heads: Sequence[TensorHead]) -> list[Tensor]:
    tensors = []
    for head, each in zip(heads, message.inputs, strict=True):
        used = [field.name for field, _ in each.contents.ListFields()]
        if others := [name for name in used if name != _CONTENTS[head.datatype]]:
            expected = f"{_CONTENTS[head.datatype]} for {head.datatype}"
            raise InvalidRequestError.expected(head.name, expected, others[0])
        tensors.append(head.of_values(getattr(each.contents, _CONTENTS[head.datatype])))
    return tensors


def _values(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    """Return parameters as plain values by name."""
    chosen = (
        (name, each, each.WhichOneof("parameter_choice")) for name, each in parameters.items()
    )
    return {name: getattr(each, choice) for name, each, choice in chosen if choice is not None}


def _write_parameter(message: pb.InferParameter, value: str | int | float) -> None:
    if isinstance(value, str):
        message.string_param = value
    elif isinstance(value, int):
        message.int64_param = value
    else:
        message.double_param = value
