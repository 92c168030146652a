"""Requests and replies of the protocol, as clients encode them: over REST and over gRPC."""

import json
from dataclasses import dataclass

import grpc
import httpx2
import numpy as np

from twinforce_proto.codec.messages import ERROR_METADATA_KEY, error_from_proto
from twinforce_proto.codec.problem import error_from_problem
from twinforce_proto.open_inference import protocol_pb2 as pb
from twinforce_proto.v1 import inference_pb2

PATIENCE = 60.0
NAMES = {"bool": "BOOL", "int32": "INT32", "int64": "INT64", "float32": "FP32", "float64": "FP64"}
DTYPES = {name: dtype for dtype, name in NAMES.items()}
CONTENTS = {
    "BOOL": "bool_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip
ENCODINGS = ("json", "nested json", "binary", "grpc", "grpc contents")


@dataclass
class Inferred:
    """A reply: arrays and parameters by name."""

    arrays: dict
    parameters: dict
    label: str
    version: str


def tensors_of(*systems, sizes=True):
    """Return the tensors that describe systems with a cell."""
    arrays = {
        "atomic_numbers": np.concatenate([each.atomic_numbers for each in systems]),
        "positions": np.concatenate([each.positions for each in systems]),
        "cell": np.stack([each.cell for each in systems]),
        "pbc": np.stack([each.pbc for each in systems]),
    }
    if sizes:
        arrays["n_atoms"] = np.array([len(each) for each in systems], np.int32)
    return arrays


def infer(server, encoding, arrays, outputs=(), *, model="soft", headers=(), **more):
    """Return the reply to a request in an encoding, or raise the error of the service."""
    ask = over_grpc if encoding.startswith("grpc") else over_rest
    return ask(server, encoding, arrays, outputs, model, dict(headers), **more)


def rest_body(is_binary, arrays, outputs=(), label="", parameters=(), *, is_nested=False):
    """Return the JSON of a request, and the raw bytes behind it."""
    inputs, raw = [], b""
    for name, array in arrays.items():
        head = {"name": name, "datatype": NAMES[array.dtype.name], "shape": array.shape}
        if is_binary:
            raw += array.tobytes()
            inputs.append(head | {"parameters": {"binary_data_size": array.nbytes}})
        else:
            data = array if is_nested else array.ravel()
            inputs.append(head | {"data": data.tolist()})
    parameters = dict(parameters) | ({"binary_data_output": True} if is_binary else {})
    values = {"id": label, "parameters": parameters, "inputs": inputs}
    values["outputs"] = [{"name": name} for name in outputs]
    return json.dumps(values).encode(), raw


def over_rest(server, encoding, arrays, outputs, model, headers, **more):
    is_binary, is_nested = encoding == "binary", encoding == "nested json"
    header, raw = rest_body(is_binary, arrays, outputs, **more, is_nested=is_nested)
    if is_binary:
        headers["Inference-Header-Content-Length"] = str(len(header))
    reply = post(server, f"/v2/models/{model}/infer", header + raw, headers)
    size = int(reply.headers.get("Inference-Header-Content-Length", len(reply.content)))
    assert (size < len(reply.content)) == is_binary
    return read_rest(json.loads(reply.content[:size]), reply.content[size:])


def post(server, path, content, headers=()):
    reply = httpx2.post(
        server.rest_url + path, content=content, headers=dict(headers), timeout=PATIENCE
    )
    return checked(reply)


def checked(reply):
    """Return a reply over REST, or raise its error."""
    if reply.status_code != 200:
        problem = reply.json()
        assert problem["error"] == problem["detail"]
        raise error_from_problem(problem, reply.status_code)
    return reply


def read_rest(values, raw):
    arrays, place = {}, 0
    for each in values["outputs"]:
        dtype = np.dtype(DTYPES[each["datatype"]])
        if (size := each.get("parameters", {}).get("binary_data_size")) is not None:
            array = np.frombuffer(raw[place : place + size], dtype)
            place += size
        else:
            array = np.array(each["data"], dtype)
        arrays[each["name"]] = array.reshape(each["shape"])
    assert place == len(raw)
    return Inferred(arrays, values["parameters"], values["id"], values["model_version"])


def grpc_request(encoding, arrays, outputs=(), model="soft", label="", parameters=()):
    message = pb.ModelInferRequest(model_name=model, id=label)
    for name, value in dict(parameters).items():
        kind = {bool: "bool", int: "int64", str: "string", float: "double"}[type(value)]
        setattr(message.parameters[name], f"{kind}_param", value)
    for name, array in arrays.items():
        datatype = NAMES[array.dtype.name]
        tensor = message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if encoding == "grpc":
            message.raw_input_contents.append(array.tobytes())
        else:
            getattr(tensor.contents, CONTENTS[datatype]).extend(array.ravel().tolist())
    for name in outputs:
        message.outputs.add(name=name)
    return message


def over_grpc(server, encoding, arrays, outputs, model, headers, **more):
    message = grpc_request(encoding, arrays, outputs, model, **more)
    reply = call(server, "ModelInfer", message, pb.ModelInferResponse, headers)
    arrays = {
        each.name: np.frombuffer(raw, DTYPES[each.datatype]).reshape(each.shape)
        for each, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }
    values = {
        name: getattr(each, each.WhichOneof("parameter_choice"))
        for name, each in reply.parameters.items()
    }
    assert reply.model_name == model
    return Inferred(arrays, values, reply.id, reply.model_version)


def call(server, method, message, kind, headers=(), timeout=PATIENCE):
    """Return the reply of a gRPC method, or raise the error of the service."""
    data = message if isinstance(message, bytes) else message.SerializeToString()
    metadata = [(name.lower(), value) for name, value in dict(headers).items()]
    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        ask = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        try:
            return kind.FromString(ask(data, metadata=metadata, timeout=timeout))
        except grpc.RpcError as refused:
            trailing = dict(refused.trailing_metadata())
            if ERROR_METADATA_KEY not in trailing:
                raise
            error = trailing[ERROR_METADATA_KEY]
            found = error_from_proto(inference_pb2.Error.FromString(error))
            if refused.code().name != found.grpc_status:
                raise
            raise found from refused
