"""Tests that systems with far too many neighbor pairs are refused, and others answered."""

import grpc
import httpx2
import numpy as np
import pytest

from tests.conftest import free_ports
from tests.potentials import ARGON, NEON, Soft, loaded
from tests.service.transports.rest_bodies import json_body, json_system
from tests.systems import crystal, molecule
from twinforce_proto import InvalidSystemError, System, SystemTooLargeError
from twinforce_proto.codec.messages import (
    ERROR_METADATA_KEY,
    array_to_proto,
    error_from_proto,
    system_to_proto,
)
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub
from twinforce_service.embedded import run_in_thread

PATIENCE = 60.0


def collapsed(n_atoms, far=0.0):
    positions = np.random.default_rng(0).uniform(0, 1.7, (n_atoms, 3))
    positions[-1, 0] += far
    return System(np.full(n_atoms, ARGON), positions)


def in_nm():
    whole = crystal(216)
    return whole.moved(whole.positions / 10, whole.cell / 10)


TOO_DENSE = {
    "nm": in_nm(),
    "collapsed": collapsed(2000),
    "collapsed except one": collapsed(2000, far=1000.0),
    "two in a thin cell": System([NEON], [[0, 0, 0]], np.diag([0.11, 0.11, 1000.0]), pbc=True),
}
SPANS = {"short": 0.01, "tiny": 1e-150}


@pytest.fixture(scope="module")
def server():
    settings = free_ports(max_pairs_per_system=10_000, max_body_bytes=2_000_000)
    with run_in_thread(settings, lambda: {"soft": loaded(Soft())}) as server:
        yield server


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        yield InferenceStub(channel)


def post(server, body):
    return httpx2.post(f"{server.rest_url}/v1/models/soft/energy", json=body, timeout=PATIENCE)


def refusal(stub, message):
    with pytest.raises(grpc.RpcError) as refused:
        stub.Predict(pb.PredictRequest(model="soft", systems=[message], outputs=[1]))
    metadata = dict(refused.value.trailing_metadata())
    return error_from_proto(pb.Error.FromString(metadata[ERROR_METADATA_KEY]))


@pytest.mark.parametrize("name", TOO_DENSE)
def test_a_system_with_too_many_pairs_is_refused_over_rest(server, name):
    reply = post(server, json_body(crystal(), TOO_DENSE[name]))
    assert reply.status_code == 413
    detail = reply.json()["detail"]
    assert detail.startswith("systems[1]: positions: expected at most 10000 neighbor pairs")
    assert detail.endswith("in Å?")
    assert post(server, json_body(crystal())).status_code == 200


@pytest.mark.parametrize("name", TOO_DENSE)
def test_a_system_with_too_many_pairs_is_refused_over_grpc(stub, name):
    error = refusal(stub, system_to_proto(TOO_DENSE[name]))
    assert isinstance(error, SystemTooLargeError)
    assert error.field == "positions"
    good = pb.PredictRequest(model="soft", systems=[system_to_proto(crystal())], outputs=[1])
    assert stub.Predict(good, timeout=PATIENCE).predictions


@pytest.mark.parametrize("span", SPANS)
def test_a_cell_smaller_than_any_atom_is_refused(server, stub, span):
    cell = np.eye(3) * SPANS[span]
    body = {"systems": [json_system(molecule(1)) | {"cell": cell.tolist(), "pbc": True}]}
    reply = post(server, body)
    assert reply.status_code == 422
    assert reply.json()["field"] == "cell"
    assert "expected vectors of at least 0.1 Å" in reply.json()["detail"]
    message = system_to_proto(molecule(1))
    message.cell.CopyFrom(array_to_proto(cell))
    message.pbc.extend([True] * 3)
    error = refusal(stub, message)
    assert isinstance(error, InvalidSystemError)
    assert error.field == "cell"
    assert post(server, json_body(crystal())).status_code == 200


def test_a_dense_system_that_the_estimate_missed_is_refused_alone(server):
    # The cluster lies at a corner of eight bins, each of which holds an eighth of its atoms.
    length = 30.0
    positions = np.random.default_rng(0).uniform(-1, 1, (110, 3)) + length / 10
    hidden = System(np.full(110, ARGON), positions, np.eye(3) * length, pbc=True)
    reply = post(server, json_body(crystal(), hidden))
    assert reply.status_code == 413
    assert reply.json()["detail"].startswith("systems[1]: positions: expected at most")
    assert post(server, json_body(crystal(), molecule())).status_code == 200
