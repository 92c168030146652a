"""Tests of tritonclient, which works as it is."""

import importlib

import numpy as np
import pytest

from tests.clients.serving import port_of
from tests.docs.pages import ROOT, blocks_of
from tests.ecosystem.open_inference import INPUTS, SYSTEMS, serve_soft
from tests.service.callers.making import add_key
from twinforce import Client

PROGRAM = "tritonclient"
pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]
PAGE = ROOT / "docs" / "protocols.md"
OUTPUTS = ("energy", "conservative_forces", "direct_stress")
DATATYPES = {"int32": "INT32", "float64": "FP64", "bool": "BOOL"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Return a service that needs a key, the key, and the predictions that are expected."""
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    key = add_key(path, "someone")
    with (
        serve_soft(keys=str(path)) as server,
        Client(server.grpc_url, key=key) as client,
    ):
        yield server, key, client.predict(SYSTEMS, OUTPUTS)


def expected_of(predictions, name):
    values = [getattr(each, name) for each in predictions]
    return {"energy": np.array, "direct_stress": np.stack}.get(name, np.concatenate)(values)


@pytest.fixture(params=["http", "grpc"])
def triton(request, served):
    """Return the module of tritonclient, a client, and what its calls need."""
    module = importlib.import_module(f"tritonclient.{request.param}")
    server, key, predictions = served
    url = server.rest_url if request.param == "http" else server.grpc_url
    with module.InferenceServerClient(f"127.0.0.1:{port_of(url)}") as client:
        yield module, client, {"headers": {"authorization": f"Bearer {key}"}}, predictions


def triton_inputs(module, **options):
    inputs = []
    for name, array in INPUTS.items():
        inputs.append(module.InferInput(name, list(array.shape), DATATYPES[array.dtype.name]))
        inputs[-1].set_data_from_numpy(array, **options)
    return inputs


def test_tritonclient_describes_the_server(triton):
    """It learns whether the server is ready, and the tensors and settings of a model."""
    module, client, headers, _ = triton
    assert client.is_server_live(**headers)
    assert client.is_server_ready(**headers)
    assert client.is_model_ready("soft", **headers)
    as_json = {} if module.__name__.endswith("http") else {"as_json": True}
    assert client.get_server_metadata(**headers, **as_json)["name"] == "TwinForce"
    model = client.get_model_metadata("soft", **headers, **as_json)
    assert [each["name"] for each in model["inputs"]][:2] == ["atomic_numbers", "positions"]
    found = client.get_model_config("soft", model_version="1", **headers, **as_json)
    assert found.get("config", found)["name"] == "soft"
    index = client.get_model_repository_index(**headers, **as_json)
    (entry,) = index if isinstance(index, list) else index["models"]
    assert (entry["name"], entry["state"]) == ("soft", "READY")


def test_tritonclient_infers(triton):
    """Over HTTP and gRPC, with a key, it gets what our own client gets."""
    module, client, headers, predictions = triton
    options = {"request_id": "42", "priority": 1, "timeout": 50_000_000}
    outputs = [module.InferRequestedOutput(name) for name in OUTPUTS]
    reply = client.infer("soft", triton_inputs(module), outputs=outputs, **options, **headers)
    for name in OUTPUTS:
        np.testing.assert_allclose(reply.as_numpy(name), expected_of(predictions, name), atol=1e-10)
    assert reply.as_numpy("direct_forces") is None
    everything = client.infer("soft", triton_inputs(module), **headers)
    assert everything.as_numpy("conservative_stress").shape == (2, 3, 3)


@pytest.mark.parametrize("triton", ["http"], indirect=True)
def test_tritonclient_infers_in_json(triton):
    """The same in JSON."""
    module, client, headers, predictions = triton
    outputs = [module.InferRequestedOutput(name, binary_data=False) for name in OUTPUTS]
    inputs = triton_inputs(module, binary_data=False)
    reply = client.infer("soft", inputs, outputs=outputs, **headers)
    for name in OUTPUTS:
        np.testing.assert_allclose(reply.as_numpy(name), expected_of(predictions, name), atol=1e-10)


def test_tritonclient_reads_errors(triton):
    """It tells the errors of the service in their words."""
    module, client, headers, _ = triton
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException) as refused:
        client.infer("soft", triton_inputs(module)[1:], **headers)
    assert refused.value.message().startswith("inputs: expected the tensor atomic_numbers, got")
    with pytest.raises(InferenceServerException) as refused:
        client.get_model_metadata("soft")
    assert "with a key of this service" in refused.value.message()


def test_the_program_of_the_documentation_runs(capsys):
    """The program of the documentation: two systems in one request."""
    (block,) = [each for each in blocks_of(PAGE) if each.language == "python"]
    with serve_soft() as server:
        code = block.code.replace("127.0.0.1:8000", server.rest_url.removeprefix("http://"))
        code = code.replace('"water"', '"soft"').replace("[8, 1, 1, 8, 1, 1]", "[18] * 6")
        exec(compile(code, str(block), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.endswith("(6, 3)\n")
