"""The OpenAPI description of the paths of the protocol."""

from typing import Any

from pydantic import BaseModel

from twinforce_proto import OUTPUTS, UnavailableError, UnknownModelError
from twinforce_proto.headers import JSON
from twinforce_service.transports.open_inference.replies import (
    KINDS,
    IndexReply,
    InferenceReply,
    ModelConfigReply,
    ModelReadyReply,
    ModelTensorsReply,
    ServerLiveReply,
    ServerReadyReply,
    ServerReply,
)
from twinforce_service.transports.open_inference.rest_bodies import (
    BINARY,
    HEADER_LENGTH,
    IndexBody,
    InferBody,
)
from twinforce_service.transports.open_inference.tensors import INPUTS, OUTPUT_KINDS
from twinforce_service.transports.rest import examples
from twinforce_service.transports.rest.openapi import (
    PREDICTION_PROBLEMS,
    Responses,
    headers_docs,
    problems,
    reference,
    reply_docs,
)

SCHEMAS: tuple[type[BaseModel], ...] = (InferBody, IndexBody, *KINDS)
"""The bodies that the description refers to."""

_RAW = {"schema": {"type": "string", "format": "binary", "description": "JSON, then raw bytes."}}
_LENGTH = {
    "name": HEADER_LENGTH,
    "in": "header",
    "description": "Length of the JSON in the body, if raw bytes of tensors follow it.",
    "schema": {"type": "integer", "minimum": 0},
}
_STARTING = UnavailableError("the service is starting: its models are loading", retry_after=1.0)
_UNKNOWN = UnknownModelError("model: no model is called 'ice'; served: water", field="model")

_INPUTS = [
    {"name": "atomic_numbers", "datatype": "INT32", "shape": [3], "data": [8, 1, 1]},
    {
        "name": "positions",
        "datatype": "FP64",
        "shape": [3, 3],
        "data": examples.WATER["positions"],
    },
]
_OUTPUT = {"name": "energy", "datatype": "FP64", "shape": [1], "data": [-469.048]}
_INFERENCE = {
    "model_name": "water",
    "model_version": "1",
    "id": "42",
    "parameters": {"sha256": "66336559c8cd…", "device": "cpu", "queue_s": 0.0004},
    "outputs": [_OUTPUT],
}
_TENSORS = {
    "name": "water",
    "versions": ["1"],
    "platform": "pytorch_twinforce",
    "inputs": [{"name": "positions", "datatype": "FP64", "shape": [-1, 3]}],
    "outputs": [{"name": "energy", "datatype": "FP64", "shape": [-1]}],
}
_CONFIG = {
    "name": "water",
    "platform": "pytorch_twinforce",
    "backend": "twinforce",
    "max_batch_size": 0,
    "input": [{"name": "positions", "data_type": "TYPE_FP64", "dims": [-1, 3]}],
    "output": [{"name": "energy", "data_type": "TYPE_FP64", "dims": [-1]}],
}
_SERVER = {"name": "TwinForce", "version": "0.2.0", "extensions": ["binary_tensor_data"]}
_ENTRY = {"name": "water", "version": "1", "state": "READY", "reason": ""}

_OF_MODEL = problems(_UNKNOWN, _STARTING)
LIVE: Responses = {200: reply_docs(ServerLiveReply, {"live": True}), **problems(_STARTING)}
READY: Responses = {200: reply_docs(ServerReadyReply, {"ready": True}), **problems(_STARTING)}
SERVER: Responses = {200: reply_docs(ServerReply, _SERVER)}
MODEL: Responses = {200: reply_docs(ModelTensorsReply, _TENSORS), **_OF_MODEL}
CONFIG: Responses = {200: reply_docs(ModelConfigReply, _CONFIG), **_OF_MODEL}
_READY = {"name": "water", "ready": True}
MODEL_READY: Responses = {200: reply_docs(ModelReadyReply, _READY), **_OF_MODEL}
INDEX: dict[str, Any] = {
    "responses": {
        200: {
            "description": "OK",
            "content": {
                JSON: {
                    "schema": {"type": "array", "items": reference(IndexReply)},
                    "example": [_ENTRY],
                }
            },
        },
        413: PREDICTION_PROBLEMS[413],
        422: PREDICTION_PROBLEMS[422],
    },
    "openapi_extra": {
        "requestBody": {
            "content": {
                JSON: {
                    "schema": reference(IndexBody),
                    "examples": {"all": {"summary": "All models", "value": {}}},
                }
            }
        }
    },
}
INFER: dict[str, Any] = {
    "summary": "Any outputs, as tensors",
    "description": "Evaluate the systems that tensors describe: "
    f"{', '.join(INPUTS)}. Values per atom are those of all systems, one after another, and "
    "`n_atoms` has the number of atoms of each; without it, there is one system. The reply has the "
    f"requested tensors of {', '.join(OUTPUT_KINDS)}, or all that the model has. The parameters "
    "`priority` (from 1, the first, to 8), `timeout` (in µs) and `reply_dtype` apply to the "
    "request.",
    "responses": {
        200: {
            "description": "OK",
            "content": {
                JSON: {"schema": reference(InferenceReply), "example": _INFERENCE},
                BINARY: _RAW,
            },
        }
    }
    | PREDICTION_PROBLEMS,
    "openapi_extra": {
        "parameters": [*headers_docs(), _LENGTH],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {
                    "schema": reference(InferBody),
                    "examples": {
                        "molecule": {
                            "summary": "A molecule",
                            "value": {
                                "id": "42",
                                "inputs": _INPUTS,
                                "outputs": [{"name": OUTPUTS[0]}],
                            },
                        }
                    },
                },
                BINARY: _RAW,
            },
        },
    },
}
