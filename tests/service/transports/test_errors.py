"""Tests that every class of error arrives unchanged over every transport."""

import grpc
import httpx2
import pytest

from tests.conftest import free_ports
from tests.potentials import NEON, Raising, loaded
from tests.service.transports.rest_bodies import PROTOBUF, json_body, protobuf_body
from tests.systems import molecule
from twinforce_proto.codec.messages import ERROR_METADATA_KEY, error_from_proto
from twinforce_proto.codec.problem import error_from_problem
from twinforce_proto.codec.stream import StreamEncoder, stream_reply_from_proto
from twinforce_proto.errors import ERRORS
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub
from twinforce_service.embedded import run_in_thread

NEONS = molecule(element=NEON)


def an_error(name):
    return ERRORS[name](f"this is {name}", field="positions", retry_after=1.5)


@pytest.fixture(scope="module")
def server():
    """Run a service with one model per class of error, which raises it for neon."""
    models = {name: loaded(Raising(an_error(name)), name) for name in ERRORS}
    with run_in_thread(free_ports(), lambda: models) as server:
        yield server


def assert_is(error, name, system_index=0):
    assert type(error) is ERRORS[name]
    assert error.to_dict() == an_error(name).to_dict() | {"system_index": system_index}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("form", ["json", "protobuf"])
def test_every_error_is_mapped_over_rest(server, name, form):
    url = f"{server.rest_url}/v1/models/{name}/predict"
    if form == "json":
        reply = httpx2.post(url, json=json_body(NEONS))
    else:
        body = protobuf_body(NEONS, outputs=["energy"], model=name)
        reply = httpx2.post(url, content=body, headers={"content-type": PROTOBUF})
    assert reply.status_code == ERRORS[name].http_status
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["retry-after"] == "2"
    assert_is(error_from_problem(reply.json(), reply.status_code), name)


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        yield InferenceStub(channel)


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_mapped_over_grpc(stub, name):
    message = pb.PredictRequest.FromString(protobuf_body(NEONS, outputs=["energy"], model=name))
    with pytest.raises(grpc.RpcError) as refused:
        stub.Predict(message)
    assert refused.value.code() is grpc.StatusCode[ERRORS[name].grpc_status]
    metadata = dict(refused.value.trailing_metadata())
    assert_is(error_from_proto(pb.Error.FromString(metadata[ERROR_METADATA_KEY])), name)


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_mapped_over_a_stream(stub, name):
    message = StreamEncoder(name).encode(NEONS, frozenset({"energy"}))
    (reply,) = stub.PredictStream(iter([message]))
    with pytest.raises(ERRORS[name]) as refused:
        stream_reply_from_proto(reply)
    assert_is(refused.value, name, system_index=None)


def test_every_error_has_an_http_and_a_grpc_status():
    for error in ERRORS.values():
        assert 400 <= error.http_status < 600
        assert error.grpc_status in grpc.StatusCode.__members__
