"""The descriptions of the server and of its models in the words of the protocol."""

from collections.abc import Iterable
from typing import Any

from twinforce_proto import ModelInfo, SystemTooLargeError, UnknownModelError
from twinforce_proto.errors import quoted
from twinforce_service.context import permission
from twinforce_service.engine.engine import Engine
from twinforce_service.transports.open_inference.tensors import (
    INPUTS,
    OUTPUT_KINDS,
    TensorKind,
)
from twinforce_service.version import service_version

# Triton names what its models run on in this way.
_PLATFORM = "pytorch_twinforce"
_BACKEND = "twinforce"
# Bytes of a request for a description: such requests hold a name and a version at most.
_MAX_BYTES = 4096
_EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "schedule_policy")


def check_length(n_bytes: int) -> None:
    """Refuse a request for a description that is too large to be read at once.

    Raises:
        SystemTooLargeError: It is too large.
    """
    if n_bytes > _MAX_BYTES:
        raise SystemTooLargeError.expected("body", f"at most {_MAX_BYTES} bytes", n_bytes)


def find_model(engine: Engine, name: str, version: str = "") -> ModelInfo:
    """Return the description of a model that the caller may use.

    Args:
        engine: Declares the models.
        name: Name of the model.
        version: Version that the caller asks for; empty for the one that is served.

    Raises:
        PermissionDeniedError: The key is not for this model.
        UnknownModelError: No such model is served, or not in this version.
        UnavailableError: The models are not loaded.
    """
    permission.get().require_model(name)
    info = engine.find(name)
    if version not in ("", info.version):
        expected = f"{info.version!r}, in which the model {name!r} is served, or none"
        raise UnknownModelError.expected("version", expected, quoted(version))
    return info


def describe_server() -> dict[str, Any]:
    """Return the description of the server."""
    return {"name": "TwinForce", "version": service_version(), "extensions": list(_EXTENSIONS)}


def describe_model(info: ModelInfo) -> dict[str, Any]:
    """Return the description of a model: its tensors, their datatypes and shapes."""

    def described(kind: TensorKind) -> dict[str, Any]:
        return {"name": kind.name, "datatype": kind.datatypes[0], "shape": list(kind.shape)}

    return {
        "name": info.name,
        "versions": [info.version],
        "platform": _PLATFORM,
        "inputs": [described(kind) for kind in INPUTS.values()],
        "outputs": [described(kind) for kind in _outputs(info)],
    }


def describe_config(info: ModelInfo) -> dict[str, Any]:
    """Return the description of a model in the form of Triton's configurations.

    Requests may hold any number of systems, but no tensor has an axis for them alone.
    """

    def described(kind: TensorKind) -> dict[str, Any]:
        data_type = f"TYPE_{kind.datatypes[0]}"
        return {"name": kind.name, "data_type": data_type, "dims": list(kind.shape)}

    return {
        "name": info.name,
        "platform": _PLATFORM,
        "backend": _BACKEND,
        "max_batch_size": 0,
        "input": [
            described(kind) | ({"optional": True} if kind.is_optional else {})
            for kind in INPUTS.values()
        ],
        "output": [described(kind) for kind in _outputs(info)],
    }


def list_models(engine: Engine, *, only_ready: bool) -> list[dict[str, str]]:
    """Return the name, version and state of each model that the caller may use.

    Args:
        engine: Declares the models.
        only_ready: True to leave out models that requests are not accepted for.
    """
    allows = permission.get().allows
    models = []
    for info in engine.models.values():
        is_ready = is_model_ready(engine, info)
        if allows(info.name) and (is_ready or not only_ready):
            state = "READY" if is_ready else "UNAVAILABLE"
            reason = "" if is_ready else "its engine is starting again"
            entry = {"name": info.name, "version": info.version, "state": state, "reason": reason}
            models.append(entry)
    return models


def is_model_ready(engine: Engine, info: ModelInfo) -> bool:
    """Return True if requests for a model are accepted."""
    return engine.is_ready and info.name in engine.available_models


def _outputs(info: ModelInfo) -> Iterable[TensorKind]:
    return (kind for name, kind in OUTPUT_KINDS.items() if name in info.outputs)
