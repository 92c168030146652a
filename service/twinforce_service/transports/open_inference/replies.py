"""The JSON replies of the protocol, for the OpenAPI description."""

from typing import Any

from pydantic import BaseModel, Field


class ServerLiveReply(BaseModel):
    """The state of the process."""

    live: bool


class ServerReadyReply(BaseModel):
    """The state of the models."""

    ready: bool


class ServerReply(BaseModel):
    """The description of the server."""

    name: str
    version: str
    extensions: list[str] = Field(description="Extensions of the protocol that it knows.")


class ModelReadyReply(BaseModel):
    """The state of a model."""

    name: str
    ready: bool


class TensorReply(BaseModel):
    """The description of a tensor."""

    name: str
    datatype: str
    shape: list[int] = Field(description="Length along each axis; -1 stands for any.")


class ModelTensorsReply(BaseModel):
    """The tensors of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorReply]
    outputs: list[TensorReply]


class ConfigTensorReply(BaseModel):
    """A tensor in the form of Triton's configurations."""

    name: str
    data_type: str
    dims: list[int]
    optional: bool | None = Field(None, description="True if requests may leave it out.")


class ModelConfigReply(BaseModel):
    """A model in the form of Triton's configurations."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensorReply]
    output: list[ConfigTensorReply]


class IndexReply(BaseModel):
    """A model in the list of models."""

    name: str
    version: str
    state: str = Field(description="READY or UNAVAILABLE.")
    reason: str


class OutputTensorReply(BaseModel):
    """A tensor of a reply."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = Field(
        None, description="binary_data_size, if raw bytes behind the JSON hold the elements."
    )
    data: list[float] | None = Field(None, description="The elements, row-major, in one list.")


class InferenceReply(BaseModel):
    """The outputs of all systems."""

    model_name: str
    model_version: str
    id: str
    parameters: dict[str, Any] = Field(description="Origin and timings of the predictions.")
    outputs: list[OutputTensorReply]


KINDS: tuple[type[BaseModel], ...] = (
    ServerLiveReply,
    ServerReadyReply,
    ServerReply,
    ModelReadyReply,
    ModelTensorsReply,
    ModelConfigReply,
    IndexReply,
    InferenceReply,
)
