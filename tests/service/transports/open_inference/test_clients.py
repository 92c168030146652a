"""Tests that clients of others work as they are: tritonclient, kserve and perf_analyzer."""

import importlib.util
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.clients.serving import port_of
from tests.conftest import free_ports
from tests.docs.pages import ROOT, blocks_of
from tests.potentials import Soft, loaded
from tests.service.callers.making import add_key
from tests.systems import crystal
from twinforce import Client
from twinforce_proto import System
from twinforce_service.embedded import run_in_thread

PATIENCE = 120.0
PAGE = ROOT / "docs" / "protocols.md"
SYSTEMS = [crystal(8, seed=1), crystal(3, seed=2)]
INPUTS = {
    "atomic_numbers": np.concatenate([each.atomic_numbers for each in SYSTEMS]),
    "positions": np.concatenate([each.positions for each in SYSTEMS]),
    "n_atoms": np.array([8, 3], np.int32),
    "cell": np.stack([each.cell for each in SYSTEMS]),
    "pbc": np.stack([each.pbc for each in SYSTEMS]),
}
OUTPUTS = ("energy", "conservative_forces", "direct_stress")
DATATYPES = {"int32": "INT32", "float64": "FP64", "bool": "BOOL"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Return a service that needs a key, the key, and the predictions that are expected."""
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    key = add_key(path, "someone")
    with (
        run_in_thread(free_ports(keys=str(path)), lambda: {"soft": loaded(Soft())}) as server,
        Client(server.grpc_url, key=key) as client,
    ):
        yield server, key, client.predict(SYSTEMS, OUTPUTS)


@pytest.fixture
def open_server():
    with run_in_thread(free_ports(), lambda: {"soft": loaded(Soft())}) as server:
        yield server


def expected_of(predictions, name):
    values = [getattr(each, name) for each in predictions]
    return {"energy": np.array, "direct_stress": np.stack}.get(name, np.concatenate)(values)


@pytest.fixture(params=["http", "grpc"])
def triton(request, served):
    """Return the module of tritonclient, a client, and what its calls need."""
    reason = "tritonclient is not installed (pip install 'tritonclient[http,grpc]')"
    module = pytest.importorskip(f"tritonclient.{request.param}", reason=reason)
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
    module, client, headers, predictions = triton
    outputs = [module.InferRequestedOutput(name, binary_data=False) for name in OUTPUTS]
    inputs = triton_inputs(module, binary_data=False)
    reply = client.infer("soft", inputs, outputs=outputs, **headers)
    for name in OUTPUTS:
        np.testing.assert_allclose(reply.as_numpy(name), expected_of(predictions, name), atol=1e-10)


def test_tritonclient_reads_errors(triton):
    module, client, headers, _ = triton
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException) as refused:
        client.infer("soft", triton_inputs(module)[1:], **headers)
    assert refused.value.message().startswith("inputs: expected the tensor atomic_numbers, got")
    with pytest.raises(InferenceServerException) as refused:
        client.get_model_metadata("soft")
    assert "with a key of this service" in refused.value.message()


KSERVE = """
import asyncio, sys
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

rest_url, grpc_address = sys.argv[1:]
arrays = {"atomic_numbers": np.full(3, 18, np.int32), "positions": 3.0 * np.eye(3)}

def request(binary):
    inputs = []
    for name, array in arrays.items():
        datatype = {"int32": "INT32", "float64": "FP64"}[array.dtype.name]
        inputs.append(InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    return InferRequest("soft", inputs)

async def main():
    rest, grpc = InferenceRESTClient(RESTConfig(protocol="v2")), InferenceGRPCClient(grpc_address)
    assert await rest.is_server_live(rest_url) and await grpc.is_server_live()
    assert await rest.is_server_ready(rest_url) and await grpc.is_server_ready()
    assert await rest.is_model_ready(rest_url, "soft") and await grpc.is_model_ready("soft")
    replies = [await grpc.infer(request(True))]
    for is_binary in (True, False):
        replies.append(await rest.infer(rest_url, request(is_binary), model_name="soft"))
    energies = {reply.outputs[0].as_numpy().item() for reply in replies}
    await rest.close(), await grpc.close()
    print(*energies)

asyncio.run(main())
"""


def test_kserve_infers(open_server):
    if importlib.util.find_spec("kserve") is None:
        pytest.skip("kserve is not installed (pip install kserve)")
    addresses = [open_server.rest_url, open_server.grpc_url.removeprefix("grpc://")]
    # In a process of its own, as its messages have the same names as those of tritonclient.
    program = [sys.executable, "-c", KSERVE, *addresses]
    ran = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 0, ran.stderr
    with Client(open_server.grpc_url) as client:
        expected = client.predict(System([18] * 3, 3.0 * np.eye(3))).energy
    assert float(ran.stdout) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_perf_analyzer_measures(open_server, protocol, tmp_path):
    program = shutil.which("perf_analyzer")
    if program is None or subprocess.run([program, "--version"], capture_output=True).returncode:
        pytest.skip("perf_analyzer is not installed, or lacks libraries of the system")
    data = {name: {"content": a.ravel().tolist(), "shape": a.shape} for name, a in INPUTS.items()}
    file = tmp_path / "data.json"
    file.write_text(json.dumps({"data": [data]}))
    url = open_server.rest_url if protocol == "http" else open_server.grpc_url
    options = ["-m", "soft", "-i", protocol, "-u", f"127.0.0.1:{port_of(url)}"]
    options += ["--input-data", str(file), "--concurrency-range", "2", "--request-count", "50"]
    ran = subprocess.run([program, *options], capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "throughput: " in ran.stdout


def test_the_program_of_the_documentation_runs(open_server, capsys):
    pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
    (block,) = [each for each in blocks_of(PAGE) if each.language == "python"]
    code = block.code.replace("127.0.0.1:8000", open_server.rest_url.removeprefix("http://"))
    code = code.replace('"water"', '"soft"').replace("[8, 1, 1, 8, 1, 1]", "[18] * 6")
    exec(compile(code, str(block), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.endswith("(6, 3)\n")
