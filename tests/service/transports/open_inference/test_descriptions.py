"""Tests of the methods that describe the server and its models."""

import httpx2
import pytest
from google.protobuf.json_format import MessageToDict

from tests.conftest import free_ports
from tests.potentials import Soft, WithoutDirect, loaded
from tests.service.callers.making import add_key
from tests.service.transports.open_inference.encodings import (
    PATIENCE,
    call,
    checked,
    infer,
    tensors_of,
)
from tests.systems import crystal
from twinforce_proto import (
    PermissionDeniedError,
    SystemTooLargeError,
    UnauthenticatedError,
    UnknownModelError,
)
from twinforce_proto.open_inference import protocol_pb2 as pb
from twinforce_service.embedded import run_in_thread
from twinforce_service.version import service_version

METHODS = {
    "ServerLive": ("/v2/health/live", pb.ServerLiveRequest, pb.ServerLiveResponse),
    "ServerReady": ("/v2/health/ready", pb.ServerReadyRequest, pb.ServerReadyResponse),
    "ServerMetadata": ("/v2", pb.ServerMetadataRequest, pb.ServerMetadataResponse),
    "ModelMetadata": ("/v2/models/{}", pb.ModelMetadataRequest, pb.ModelMetadataResponse),
    "ModelReady": ("/v2/models/{}/ready", pb.ModelReadyRequest, pb.ModelReadyResponse),
    "ModelConfig": ("/v2/models/{}/config", pb.ModelConfigRequest, pb.ModelConfigResponse),
    "RepositoryIndex": (
        "/v2/repository/index", pb.RepositoryIndexRequest, pb.RepositoryIndexResponse
    ),
}  # fmt: skip
OF_MODEL = [name for name in METHODS if name.startswith("Model")]
TRANSPORTS = ("rest", "grpc")


def models():
    return {"soft": loaded(Soft(), "soft"), "bare": loaded(WithoutDirect(), "bare")}


@pytest.fixture(scope="module")
def server():
    with run_in_thread(free_ports(), models) as server:
        yield server


def ask(server, transport, method, model="", version="", key="", **values):
    """Return the reply of a method as the values of its JSON."""
    path, request, reply = METHODS[method]
    headers = {"authorization": f"Bearer {key}"} if key else {}
    if transport == "rest":
        kind = "POST" if method == "RepositoryIndex" else "GET"
        path = path.format(f"{model}/versions/{version}" if version else model)
        return checked(
            httpx2.request(
                kind, server.rest_url + path, headers=headers, timeout=PATIENCE, json=values or None
            )
        ).json()
    names = {"name": model, "version": version} if model else {}
    message = call(server, method, request(**names, **values), reply, headers)
    return MessageToDict(message, preserving_proto_field_name=True)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_server_describes_itself(server, transport):
    assert ask(server, transport, "ServerLive") == {"live": True}
    assert ask(server, transport, "ServerReady") == {"ready": True}
    assert ask(server, transport, "ServerMetadata") == {
        "name": "TwinForce",
        "version": service_version(),
        "extensions": [
            "binary_tensor_data",
            "model_configuration",
            "model_repository",
            "schedule_policy",
        ],
    }


def shapes(tensors, field="shape"):
    return {each["name"]: [int(length) for length in each[field]] for each in tensors}


@pytest.mark.parametrize("version", ["", "1"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_model_describes_its_tensors(server, transport, version):
    found = ask(server, transport, "ModelMetadata", "bare", version)
    assert (found["name"], found["versions"]) == ("bare", ["1"])
    assert shapes(found["inputs"]) == {
        "atomic_numbers": [-1],
        "positions": [-1, 3],
        "n_atoms": [-1],
        "cell": [-1, 3, 3],
        "pbc": [-1, 3],
        "charge": [-1],
        "spin_multiplicity": [-1],
    }
    outputs = {"energy": [-1], "atom_energies": [-1], "conservative_forces": [-1, 3]}
    assert shapes(found["outputs"]) == outputs
    datatypes = {each["name"]: each["datatype"] for each in found["inputs"]}
    assert datatypes == {
        "atomic_numbers": "INT32",
        "positions": "FP64",
        "n_atoms": "INT32",
        "cell": "FP64",
        "pbc": "BOOL",
        "charge": "FP64",
        "spin_multiplicity": "INT32",
    }
    ready = ask(server, transport, "ModelReady", "bare", version)
    assert ready["ready"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_configuration_says_which_tensors_are_optional(server, transport):
    found = ask(server, transport, "ModelConfig", "soft")
    config = found if transport == "rest" else found["config"]
    needed = [each["name"] for each in config["input"] if not each.get("optional")]
    assert needed == ["atomic_numbers", "positions"]
    assert shapes(config["output"], "dims")["direct_stress"] == [-1, 3, 3]
    assert {each["data_type"] for each in config["output"]} == {"TYPE_FP64"}
    assert config.get("max_batch_size", 0) == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_models_are_listed(server, transport):
    for values in ({}, {"ready": True}):
        found = ask(server, transport, "RepositoryIndex", **values)
        entries = found if transport == "rest" else found["models"]
        assert [(each["name"], each["version"], each["state"]) for each in entries] == [
            ("soft", "1", "READY"),
            ("bare", "1", "READY"),
        ]


@pytest.mark.parametrize("method", OF_MODEL)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_other_models_and_versions_are_not_known(server, transport, method):
    with pytest.raises(UnknownModelError, match="no model is called 'ice'"):
        ask(server, transport, method, "ice")
    expected = "version: expected '1', in which the model 'soft' is served, or none, got '2'"
    with pytest.raises(UnknownModelError, match=expected):
        ask(server, transport, method, "soft", "2")


def test_the_version_of_a_model_is_part_of_the_path_alone(server):
    paths = httpx2.get(f"{server.rest_url}/openapi.json", timeout=PATIENCE).json()["paths"]
    for name in ("", "/ready", "/config", "/infer"):
        (method,) = paths[f"/v2/models/{{model}}{name}"].values()
        places = {each["in"] for each in method["parameters"]}
        assert "query" not in places
    for name in ("", "/ready", "/config"):
        path = f"{server.rest_url}/v2/models/soft{name}"
        reply = checked(httpx2.get(path, params={"version": "2"}, timeout=PATIENCE))
        assert reply.json()["name"] == "soft"


def test_large_requests_are_refused(server):
    expected = "body: expected at most 4096 bytes, got 5000"
    for content in (b" " * 5000, b"[" * 5000):
        with pytest.raises(SystemTooLargeError, match=expected):
            checked(
                httpx2.post(
                    f"{server.rest_url}/v2/repository/index", content=content, timeout=PATIENCE
                )
            )
    for method in METHODS:
        _, _, reply = METHODS[method]
        with pytest.raises(SystemTooLargeError, match=expected):
            call(server, method, b"\x78\x00" * 2500, reply)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    names = {
        "soft": add_key(path, "soft", "--model", "soft"),
        "relax": add_key(path, "relax", "--scope", "relax"),
    }
    with run_in_thread(free_ports(keys=str(path)), models) as server:
        yield server, names


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_each_method_needs_a_key(keys, transport, method):
    server, texts = keys
    model = "soft" if method in OF_MODEL else ""
    with pytest.raises(UnauthenticatedError):
        ask(server, transport, method, model)
    assert ask(server, transport, method, model, key=texts["soft"])


@pytest.mark.parametrize("method", OF_MODEL)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_key_of_one_model_tells_nothing_of_others(keys, transport, method):
    server, texts = keys
    with pytest.raises(PermissionDeniedError):
        ask(server, transport, method, "bare", key=texts["soft"])
    found = ask(server, transport, "RepositoryIndex", key=texts["soft"])
    entries = found if transport == "rest" else found["models"]
    assert [each["name"] for each in entries] == ["soft"]


@pytest.mark.parametrize("encoding", ["json", "binary", "grpc"])
def test_a_key_needs_the_scope_and_the_model(keys, encoding):
    server, texts = keys
    headers = {name: {"authorization": f"Bearer {text}"} for name, text in texts.items()}
    arrays = tensors_of(crystal(2))
    with pytest.raises(UnauthenticatedError):
        infer(server, encoding, arrays)
    with pytest.raises(PermissionDeniedError, match="scope predict"):
        infer(server, encoding, arrays, headers=headers["relax"])
    with pytest.raises(PermissionDeniedError, match="model: expected one that the key"):
        infer(server, encoding, arrays, model="bare", headers=headers["soft"])
    assert infer(server, encoding, arrays, headers=headers["soft"]).arrays
