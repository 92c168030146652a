"""Tests that the limits of callers hold over every transport, which say when to come back."""

import grpc
import httpx2
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from tests.conftest import free_ports
from tests.potentials import Soft, loaded
from tests.service.transports.rest_bodies import json_body
from tests.systems import molecule
from twinforce import Client
from twinforce_proto import OverloadedError
from twinforce_proto.codec.messages import ERROR_METADATA_KEY, error_from_proto, system_to_proto
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub
from twinforce_service.embedded import run_in_thread

PATIENCE = 60.0
N_ATOMS, PER_SECOND = 300, 2
EXPECTED = "atoms_per_second: 127.0.0.1 has reached its limit of 2; try again in "


@pytest.fixture(scope="module")
def server():
    settings = free_ports(caller_atoms_per_second=PER_SECOND, caller_steps_per_day=100)
    with run_in_thread(settings, lambda: {"soft": loaded(Soft())}) as server:
        reply = post(server, molecule(N_ATOMS))
        assert reply.status_code == 200
        assert reply.headers["RateLimit"].startswith('"atoms_per_second";r=0;t=')
        yield server


def post(server, system):
    url = f"{server.rest_url}/v1/models/soft/energy"
    return httpx2.post(url, json=json_body(system), timeout=PATIENCE)


def check(error):
    assert (type(error), error.field) == (OverloadedError, "atoms_per_second")
    assert str(error).startswith(EXPECTED)
    assert 0 < error.retry_after <= N_ATOMS / PER_SECOND


def test_rest_answers_429_with_the_limit_and_the_time(server):
    reply = post(server, molecule(1))
    assert reply.status_code == 429
    assert reply.json()["detail"].startswith(EXPECTED)
    assert 0 < int(reply.headers["Retry-After"]) <= N_ATOMS / PER_SECOND
    policy = '"atoms_per_second";q=2;w=1, "steps_per_day";q=100;w=86400'
    assert reply.headers["RateLimit-Policy"] == policy


def test_grpc_answers_resource_exhausted_with_retry_info(server):
    message = pb.PredictRequest(model="soft", systems=[system_to_proto(molecule(1))], outputs=[1])
    with (
        grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        InferenceStub(channel).Predict(message, timeout=PATIENCE)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    metadata = dict(refused.value.trailing_metadata())
    status = Status.FromString(metadata["grpc-status-details-bin"])
    assert (status.code, status.message) == (8, refused.value.details())
    info = RetryInfo()
    assert status.details[0].Unpack(info)
    error = error_from_proto(pb.Error.FromString(metadata[ERROR_METADATA_KEY]))
    check(error)
    assert info.retry_delay.ToNanoseconds() / 1e9 == pytest.approx(error.retry_after)


@pytest.mark.parametrize("transport", ["rest_url", "grpc_url"])
def test_all_calls_count(server, transport):
    with Client(getattr(server, transport), timeout=1.0) as client:
        with pytest.raises(OverloadedError) as refused:
            client.predict(molecule(1), model="soft")
        check(refused.value)
        with client.stream("soft") as walker, pytest.raises(OverloadedError) as refused:
            walker.predict(molecule(1))
        check(refused.value)
        with pytest.raises(OverloadedError) as refused:
            client.nonconservativity(molecule(2), model="soft")
        check(refused.value)
        with pytest.raises(OverloadedError) as refused:
            list(client.relax(molecule(2), model="soft", max_steps=50, timeout=1.0))
        check(refused.value)


def test_the_metrics_tell_what_each_caller_has_used(server):
    lines = httpx2.get(f"{server.rest_url}/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if "twinforce_caller" in line)
    label = '{caller="127.0.0.1"}'
    assert float(values[f"twinforce_caller_evaluations_total{label}"]) == 1
    assert float(values[f"twinforce_caller_atoms_total{label}"]) == N_ATOMS
    assert float(values[f"twinforce_caller_device_seconds_total{label}"]) > 0
