"""Test of the client of KServe, which works as it is."""

import subprocess
import sys

import numpy as np
import pytest

from tests.ecosystem.open_inference import PATIENCE, serve_soft
from twinforce import Client, System

PROGRAM = "kserve"
pytestmark = pytest.mark.ecosystem

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


def test_kserve_infers():
    """Its clients of REST and gRPC get what our own client gets."""
    with serve_soft() as server, Client(server.grpc_url) as client:
        addresses = [server.rest_url, server.grpc_url.removeprefix("grpc://")]
        # In a process of its own, as its messages have the same names as ours.
        program = [sys.executable, "-c", KSERVE, *addresses]
        ran = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE)
        assert ran.returncode == 0, ran.stderr
        expected = client.predict(System([18] * 3, 3.0 * np.eye(3))).energy
    assert float(ran.stdout) == pytest.approx(expected, abs=1e-10)
