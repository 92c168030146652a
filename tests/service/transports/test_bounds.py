"""Tests that messages are bounded before anything is made of them, on every transport."""

import json
import tracemalloc

import grpc
import httpx2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import free_ports
from tests.potentials import Soft, loaded
from tests.service.transports.rest_bodies import json_body, protobuf_body
from tests.systems import crystal, molecule
from twinforce import Client
from twinforce_proto import InvalidRequestError, ServiceError, SystemTooLargeError
from twinforce_proto.codec.messages import ERROR_METADATA_KEY, error_from_proto, system_to_proto
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub
from twinforce_service.calls.bounds import CallLimits
from twinforce_service.calls.conversion import MAX_BYTES_INLINE
from twinforce_service.embedded import run_in_thread
from twinforce_service.transports.rest.bodies import read_predict_json
from twinforce_service.transports.rest.dynamics_bodies import read_propagate_json

PATIENCE = 60.0
LIMITS = CallLimits(max_bytes=400_000, max_systems=5, max_atoms=50, max_atoms_per_system=20)
PADDING = " " * (MAX_BYTES_INLINE + 1)
TOO_MANY = "systems: expected at most 5 in one call (max_systems_per_call), got {}"
TOO_MANY_ATOMS = "systems: expected at most 50 atoms in one call (max_atoms_per_call), got {}"


@pytest.fixture(scope="module")
def server():
    settings = free_ports(
        max_body_bytes=LIMITS.max_bytes,
        max_systems_per_call=LIMITS.max_systems,
        max_atoms_per_call=LIMITS.max_atoms,
        max_atoms_per_system=LIMITS.max_atoms_per_system,
    )
    with run_in_thread(settings, lambda: {"soft": loaded(Soft())}) as server:
        yield server


@pytest.fixture
def rest(server):
    with httpx2.Client(base_url=server.rest_url, timeout=PATIENCE) as rest:
        yield rest


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        yield InferenceStub(channel)


@pytest.fixture(params=["json", "long json", "protobuf", "grpc"])
def refusal_of(request, rest, stub):
    """Return a function that asks for the energies of systems and returns the refusal."""

    def over_json(systems):
        text = json.dumps(json_body(*systems))
        content = text + PADDING if request.param == "long json" else text
        return over_rest(content.encode(), "application/json")

    def over_rest(content, media_type):
        headers = {"content-type": media_type}
        reply = rest.post("/v1/models/soft/energy", content=content, headers=headers)
        assert reply.status_code == 422
        return reply.json()["detail"]

    def over_protobuf(systems):
        body = protobuf_body(*systems, outputs=["energy"])
        return over_rest(body, "application/x-protobuf")

    def over_grpc(systems):
        messages = map(system_to_proto, systems)
        return grpc_refusal(stub, pb.PredictRequest(model="soft", systems=messages))

    return {"grpc": over_grpc, "protobuf": over_protobuf}.get(request.param, over_json)


def grpc_refusal(stub, message, status=grpc.StatusCode.INVALID_ARGUMENT):
    with pytest.raises(grpc.RpcError) as refused:
        stub.Predict(message, timeout=PATIENCE)
    assert refused.value.code() is status
    metadata = dict(refused.value.trailing_metadata())
    return str(error_from_proto(pb.Error.FromString(metadata[ERROR_METADATA_KEY])))


def test_a_call_of_too_many_systems_is_refused(refusal_of):
    assert refusal_of([molecule(1)] * 6) == TOO_MANY.format(6)


def test_a_call_of_too_many_atoms_is_refused(refusal_of):
    assert refusal_of([molecule(17)] * 3) == TOO_MANY_ATOMS.format(51)


def test_the_largest_calls_are_answered(rest, server):
    text = json.dumps(json_body(*[molecule(10)] * 5))
    for content in (text, text + PADDING):
        reply = rest.post("/v1/models/soft/energy", content=content)
        assert len(reply.json()["predictions"]) == 5
    with Client(server.grpc_url) as client:
        assert len(client.predict([molecule(10)] * 5, ["energy"])) == 5


def many_systems_json():
    return json.dumps({"systems": [{"atomic_numbers": [18], "positions": [[0, 0, 0]]}] * 6000})


def one_large_system():
    positions = ",".join(["[0,0,0]"] * 20_000)
    return f'{{"systems":[{{"atomic_numbers":[18],"positions":[{positions}]}}]}}'


def many_keys():
    return "{" + ",".join(f'"a{i}":1' for i in range(20_000)) + "}"


def many_outputs():
    return '{"systems":[{}],"outputs":[' + ",".join(['"a"'] * 60_000) + "]}"


def much_beside():
    return '{"systems":[{}],"outputs":["' + "a" * 300_000 + '"]}'


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (many_systems_json, r"at most 5 in one call"),
        (one_large_system, r"at most \d+ atoms"),
        (many_keys, r"at most \d+ keys|at most 50 atoms"),
        (many_outputs, r"at most 50 atoms|bytes beside the systems"),
        (much_beside, r"bytes beside the systems"),
    ],
)
def test_nothing_is_made_of_a_json_body_that_would_become_too_much(body, expected):
    data = body().encode()
    tracemalloc.start()
    try:
        with pytest.raises(ServiceError, match=expected):
            read_predict_json(data, "soft", LIMITS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(data)


@pytest.mark.parametrize("read", [read_propagate_json])
def test_a_body_about_one_system_is_bounded_as_well(read):
    body = '{"start":{"velocities":[' + ",".join(["[0,0,0]"] * 20_000) + "]}}"
    with pytest.raises(SystemTooLargeError, match="at most 20 atoms, got about"):
        read(body.encode(), "soft", LIMITS)


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        (pb.PredictRequest, b"\x12\x00" * 6, "at most 5 in one call"),
        (pb.PredictRequest, b"\x12\x00" * 10**6, "at most 5 in one call"),
        (pb.PredictRequest, b"\x18\x01" * 10**6, "at most 300 fields"),
        (pb.StreamRequest, b"\x22\x00\x2a\x00" * 10**6, "at most 5 in one call"),
        (pb.StreamRequest, b"\x2a\x00" * 10**6, "at most 300 fields"),
        (pb.PropagateRequest, b"\x1a\xc0\x84\x3d" + b"\x32\x00" * 500_000, "at most 300 fields"),
        (pb.PredictRequest, b"\x12\xcf\x01\x0a\xcc\x01" + bytes(204), "at most 50 atoms"),
    ],
)
def test_nothing_is_made_of_a_message_that_would_become_too_much(kind, data, expected):
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequestError, match=expected):
            LIMITS.check_wire(data, kind)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("data", [b"\x12", b"\x12\x05", b"\xff" * 20, b"\x0b\x0c", b"\x09"])
def test_bytes_that_are_no_message_are_left_to_the_parser(data):
    LIMITS.check_wire(data, pb.PredictRequest)


def test_a_stream_goes_on_after_a_message_that_would_become_too_much(stub):
    good = pb.StreamRequest(model="soft", system=system_to_proto(molecule(2)))
    large = pb.StreamRequest(model="soft", outputs=[1] * 2)
    bad = pb.StreamRequest.FromString(large.SerializeToString())
    bad.system.pbc.extend([True] * 150_000)
    replies = list(stub.PredictStream(iter([good, bad, good]), timeout=PATIENCE))
    outcomes = [reply.WhichOneof("outcome") for reply in replies]
    assert outcomes == ["prediction", "error", "prediction"]
    assert replies[1].error.type == "InvalidSystemError"


def test_bytes_that_are_no_message_are_the_error_of_their_sender(server):
    target = server.grpc_url.removeprefix("grpc://")
    with grpc.insecure_channel(target) as channel:
        for name in ("Predict", "Nonconservativity", "GetModel"):
            ask = channel.unary_unary(f"/twinforce.v1.Inference/{name}")
            with pytest.raises(grpc.RpcError) as refused:
                ask(b"\x0a\xff", timeout=PATIENCE)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        ask = channel.stream_stream("/twinforce.v1.Inference/PredictStream")
        (reply,) = ask(iter([b"\x0a\xff"]), timeout=PATIENCE)
        assert pb.StreamReply.FromString(reply).error.type == "InvalidRequestError"


LONG = "é" * 30_000


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/v1/models/soft/predict", {"systems": [], "outputs": [LONG]}, {}),
        ("/v1/models/soft/predict", {LONG: 1}, {}),
        ("/v1/models/soft/predict", {"systems": [{LONG: 1}]}, {}),
        ("/v1/models/" + "a" * 60_000 + "/predict", {}, {}),
        ("/" + "a" * 60_000, {}, {}),
        ("/v1/models/soft/predict", {}, {"content-type": "a" * 60_000}),
        ("/v1/models/soft/predict", {}, {"x-timeout-seconds": "a" * 60_000}),
        ("/v1/models/soft/predict", {}, {"x-urgency": "a" * 60_000}),
    ],
)
def test_problems_are_short_whatever_they_are_about(rest, path, body, headers):
    reply = rest.post(path, json=body, headers=headers)
    assert 400 <= reply.status_code < 500
    assert len(reply.content) < 5000
    assert len(reply.json()["detail"].encode()) <= 4000


@pytest.mark.parametrize("text", ["a", "é", "\N{GRINNING FACE}", "\0"])
def test_errors_over_grpc_fit_into_headers_whatever_they_are_about(stub, text):
    message = pb.PredictRequest(model=text * 30_000, systems=[system_to_proto(molecule(1))])
    assert "…" in grpc_refusal(stub, message, grpc.StatusCode.NOT_FOUND)


@pytest.mark.parametrize("text", ["a", "é", "\N{GRINNING FACE}", "\ud800"])
def test_the_message_of_an_error_is_clipped_to_whole_characters(text):
    error = ServiceError(text * 10_000, field=text * 10_000)
    for clipped, limit in ((error.message, 4000), (error.field, 300)):
        assert limit - 10 < len(clipped.encode(errors="replace")) <= limit
        assert clipped.endswith("…")
    assert ServiceError("short").message == "short"


NUMBERS = st.sampled_from(["1", "0", "-2.5", "1e3", "true", "null", '"a"', "[]", "{}", "", "1,"])
ROWS = st.lists(st.lists(NUMBERS, min_size=2, max_size=4).map(",".join), max_size=3)
SYSTEM_TEXTS = st.builds(
    lambda numbers, rows, more: (
        f'{{"atomic_numbers":[{",".join(numbers)}], "positions":'
        f"[{','.join(f'[{row}]' for row in rows)}]{more}}}"
    ),
    st.lists(st.sampled_from(["18", "10", "0", "1.5", '"H"']), max_size=3),
    ROWS,
    st.sampled_from(["", ',"pbc":true', ',"charge":{}', ',"x":1', ',"charge":1', "}"]),
)
BODIES = st.builds(
    lambda systems, outputs, more: f'{{"systems": [{",".join(systems)}]{outputs}{more}}}',
    st.lists(SYSTEM_TEXTS, max_size=3),
    st.sampled_from(["", ',"outputs":["energy"]', ',"outputs":["}{"]', ',"outputs":{}']),
    st.sampled_from(["", ',"systems":[]', "]", ',"more":{"a":1}', " "]),
)


def outcome(body):
    try:
        request = read_predict_json(body.encode(), "soft", LIMITS)
    except ServiceError as error:
        return type(error)
    arrays = [(each.atomic_numbers, each.positions, each.pbc) for each in request.systems]
    return request.outputs, json.dumps([[np.asarray(x).tolist() for x in each] for each in arrays])


@settings(max_examples=300)
@given(BODIES)
def test_long_bodies_are_read_as_short_ones_are(body):
    short, long = outcome(body), outcome(body + PADDING)
    if isinstance(short, type):
        assert isinstance(long, type)
    else:
        assert long == short


def test_a_long_body_names_the_system_that_is_wrong(rest):
    body = json_body(crystal(5), crystal(5))
    del body["systems"][1]["positions"]
    reply = rest.post("/v1/models/soft/energy", content=json.dumps(body) + PADDING)
    assert reply.json()["detail"] == "systems[1]: positions: field required"
    body = json_body(molecule(21)) | {}
    reply = rest.post("/v1/models/soft/energy", content=json.dumps(body) + PADDING)
    assert (reply.status_code, reply.json()["detail"]) == (
        413,
        "systems[0]: expected at most 20 atoms, got 21",
    )
