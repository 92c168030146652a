"""Tests that bodies and messages which are not as the protocol says are refused in words."""

import json
import math
import tracemalloc

import httpx2
import numpy as np
import pytest

from tests.conftest import free_ports
from tests.potentials import Soft, loaded
from tests.service.transports.open_inference.encodings import (
    PATIENCE,
    call,
    checked,
    grpc_request,
    post,
    read_rest,
    tensors_of,
)
from tests.systems import crystal, molecule
from twinforce_proto import InvalidRequestError, InvalidSystemError, SystemTooLargeError
from twinforce_proto.open_inference import protocol_pb2 as pb
from twinforce_service.embedded import run_in_thread

MAX_BYTES = 300_000
INFER = "/v2/models/soft/infer"
NUMBERS = {"name": "atomic_numbers", "datatype": "INT32", "shape": [2], "data": [18, 18]}
POSITIONS = {"name": "positions", "datatype": "FP64", "shape": [2, 3], "data": [0, 0, 0, 3, 0, 0]}
OTHER_TYPE = "atomic_numbers: expected INT32 values, got values of another type"
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def server():
    settings = free_ports(
        max_body_bytes=MAX_BYTES,
        max_systems_per_call=5,
        max_atoms_per_call=50,
        max_atoms_per_system=20,
    )
    with run_in_thread(settings, lambda: {"soft": loaded(Soft())}) as server:
        yield server


def ask(server, *inputs, raw=b"", headers=(), **more):
    content = json.dumps({"inputs": inputs} | more).encode()
    headers = dict(headers) or ({LENGTH: str(len(content))} if raw else {})
    return post(server, INFER, content + raw, headers).json()


def refusal(server, *inputs, **more):
    with pytest.raises(InvalidRequestError) as refused:
        ask(server, *inputs, **more)
    return refused.value.message


def with_peak_memory(ask, *arguments):
    """Return the result of a call, and the bytes that Python and numpy took for it at once."""
    tracemalloc.start()
    try:
        result = ask(*arguments)
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_values_may_be_whole_numbers_and_nested_otherwise(server):
    nested = POSITIONS | {"data": [[[0], [0]], [[0], [3]], [[0], [0.0]]]}
    expected = ask(server, NUMBERS, POSITIONS)["outputs"]
    assert ask(server, NUMBERS, nested)["outputs"] == expected


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": [18.0, 18.5]}, OTHER_TYPE),
        ({"data": ["a", "b"]}, OTHER_TYPE),
        ({"data": [None, 18]}, OTHER_TYPE),
        ({"data": [True, False]}, OTHER_TYPE),
        ({"data": [{}, {}]}, OTHER_TYPE),
        ({"data": [True, 18]}, OTHER_TYPE),
        ({"data": [[18], [True]]}, OTHER_TYPE),
        ({"data": [18, [18]]}, "atomic_numbers: expected INT32 values, got ragged lists"),
        ({"data": [[[18]], [18]]}, "atomic_numbers: expected INT32 values, got ragged lists"),
        ({"data": [18, 2**40]}, f"atomic_numbers: expected INT32 values, got {2**40}"),
        ({"data": [18, 2**70]}, f"atomic_numbers: expected INT32 values, got {2**70}"),
        ({"data": [[18], [18, 18]]}, "atomic_numbers: expected INT32 values, got ragged lists"),
        ({"data": [18]}, "atomic_numbers: expected 2 values for shape [2], got 1"),
        ({"shape": [-2]}, "atomic_numbers: expected shape [-1], got shape [-2]"),
        ({"shape": [2**62]}, f"atomic_numbers: expected shape [-1], got shape [{2**62}]"),
        ({"shape": [2.5]}, "inputs[0].shape[0]: input should be a valid integer"),
        ({"datatype": 5}, "inputs[0].datatype: input should be a valid string"),
        ({"data": None}, "atomic_numbers: expected either data, or raw bytes and the parameter "
                         "binary_data_size, got neither"),
        ({"parameters": {"binary_data_size": 8}},
         "atomic_numbers: expected either data, or raw bytes and the parameter binary_data_size, "
         "got both"),
        ({"parameters": {"shared_memory_region": "x"}},
         "parameters.shared_memory_region: expected none, as this is not served, got 'x'"),
    ],
)  # fmt: skip
def test_an_input_is_refused(server, changed, message):
    assert refusal(server, NUMBERS | changed, POSITIONS) == message


@pytest.mark.parametrize(
    "positions", [[0.0, 0, 0, 3, 0, True], [False] * 6, [0, 0, 0, 3, 0, "0"], [0, 0, 0, 3, 0, None]]
)
def test_only_numbers_are_floats(server, positions):
    message = refusal(server, NUMBERS, POSITIONS | {"data": positions})
    assert message == "positions: expected FP64 values, got values of another type"


def test_whole_numbers_may_be_floats_as_far_as_they_go(server):
    message = refusal(server, NUMBERS, POSITIONS | {"data": [0, 0, 0, 3, 0, 10**400]})
    expected = "positions: expected FP64 values, got a whole number beyond the range of FP64"
    assert message == expected
    with pytest.raises(InvalidSystemError, match="positions: expected finite numbers within"):
        ask(server, NUMBERS, POSITIONS | {"data": [0, 0, 0, 2**70, 0, 0]})


@pytest.mark.parametrize(
    ("name", "datatype", "shape"),
    [("atomic_numbers", "INT32", [20]), ("positions", "FP64", [20, 3]), ("pbc", "BOOL", [5, 3])],
)
def test_long_texts_take_no_more_memory_than_their_body(server, name, datatype, shape):
    data = [0] * (math.prod(shape) - 1) + ["a" * 200_000]
    tensor = {"name": name, "datatype": datatype, "shape": shape, "data": data}
    message, n_bytes = with_peak_memory(refusal, server, tensor)
    assert message == f"{name}: expected {datatype} values, got values of another type"
    assert n_bytes < 4_000_000


def test_a_shape_of_many_axes_takes_no_more_memory_than_its_message(server):
    message = pb.ModelInferRequest(model_name="soft")
    message.inputs.add(name="positions", datatype="FP64", shape=[300] * 140_000)
    kind = pb.ModelInferResponse

    def refuse():
        with pytest.raises(InvalidRequestError) as refused:
            call(server, "ModelInfer", message, kind)
        return refused.value.message

    text, n_bytes = with_peak_memory(refuse)
    assert text == f"positions: expected shape [-1, 3], got shape {[300] * 10}"
    assert n_bytes < 3_000_000
    shape = {"shape": [300] * 1000}
    assert refusal(server, NUMBERS, POSITIONS | shape) == text


def test_numbers_beyond_single_precision_are_not_finite(server):
    huge = POSITIONS | {"datatype": "FP32", "data": [1e300, 0, 0, 3, 0, 0]}
    with pytest.raises(InvalidSystemError, match="positions: expected finite numbers") as refused:
        ask(server, NUMBERS, huge)
    assert refused.value.system_index == 0


def test_a_tensor_comes_once(server):
    message = "inputs: expected each tensor once, got 'positions' twice"
    assert refusal(server, NUMBERS, POSITIONS, POSITIONS) == message


def as_raw(head, n_bytes=None):
    array = np.array(head["data"], {"INT32": "<i4", "FP64": "<f8", "BOOL": "?"}[head["datatype"]])
    size = array.nbytes if n_bytes is None else n_bytes
    parameters = {"binary_data_size": size}
    return {key: head[key] for key in ("name", "datatype", "shape")} | {
        "parameters": parameters
    }, array.tobytes()


def test_only_some_tensors_may_be_raw(server):
    head, raw = as_raw(POSITIONS)
    expected = ask(server, NUMBERS, POSITIONS)["outputs"]
    assert ask(server, NUMBERS, head, raw=raw)["outputs"] == expected


def test_each_output_says_how_it_is_sent(server):
    outputs = [{"name": "energy"}, {"name": "direct_forces", "parameters": {"binary_data": True}}]
    body = {"inputs": [NUMBERS, POSITIONS], "outputs": outputs}
    reply = post(server, INFER, json.dumps(body))
    size = int(reply.headers[LENGTH])
    values = json.loads(reply.content[:size])
    assert reply.headers["content-type"] == "application/octet-stream"
    assert ["data" in each for each in values["outputs"]] == [True, False]
    found = read_rest(values, reply.content[size:]).arrays["direct_forces"]
    plain = ask(server, NUMBERS, POSITIONS)["outputs"]
    (expected,) = [each["data"] for each in plain if each["name"] == "direct_forces"]
    assert found.ravel().tolist() == expected
    body = body | {"parameters": {"binary_data_output": True}}
    outputs[1]["parameters"]["binary_data"] = False
    reply = post(server, INFER, json.dumps(body))
    values = json.loads(reply.content[: int(reply.headers[LENGTH])])
    assert ["data" in each for each in values["outputs"]] == [False, True]


def test_raw_bytes_have_to_fit(server):
    head, raw = as_raw(POSITIONS)
    message = "positions: expected 48 bytes of FP64 for shape [2, 3], got 47 bytes"
    assert refusal(server, NUMBERS, head, raw=raw[:-1]) == message
    message = (
        "body: expected 48 bytes behind the JSON, which those of the tensors add up to, got 49"
    )
    assert refusal(server, NUMBERS, head, raw=raw + b"x") == message
    head, raw = as_raw(POSITIONS, 40)
    message = (
        "positions.parameters.binary_data_size: expected 48, as FP64 of shape [2, 3] takes as "
        "many bytes, got 40"
    )
    assert refusal(server, NUMBERS, head, raw=raw) == message
    pbc = {
        "name": "pbc",
        "datatype": "BOOL",
        "shape": [1, 3],
        "parameters": {"binary_data_size": 3},
    }
    message = "pbc: expected bytes 0 or 1, got 2"
    assert refusal(server, NUMBERS, POSITIONS, pbc, raw=b"\0\1\2") == message


@pytest.mark.parametrize("length", ["x", "-1", "1e3", "100000", "²", "9" * 30])
def test_the_length_of_the_json_has_to_fit(server, length):
    if not length.isascii():
        length = length.encode()
    message = refusal(server, NUMBERS, POSITIONS, headers={LENGTH: length})
    assert message.startswith(f"{LENGTH}: expected a whole number up to ")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"inputs": []}', b"\xff"])
def test_other_bodies_are_refused(server, content):
    with pytest.raises(InvalidRequestError):
        post(server, INFER, content)


def test_other_media_types_and_compressed_bodies_are_refused(server):
    content = json.dumps({"inputs": [NUMBERS, POSITIONS]})
    for headers in ({"content-type": "text/plain"}, {"content-encoding": "gzip"}):
        reply = httpx2.post(
            server.rest_url + INFER, content=content, headers=headers, timeout=PATIENCE
        )
        assert reply.status_code == 415
        assert reply.json()["error"].startswith(
            "expected an uncompressed body of application/json or"
        )
    headers = {"content-type": "application/octet-stream"}
    assert post(server, INFER, content, headers).json()["outputs"]


def test_messages_are_refused_that_mix_raw_and_other_contents(server):
    message = grpc_request("grpc contents", tensors_of(crystal(2)))
    message.raw_input_contents.append(b"\0" * 8)
    with pytest.raises(InvalidRequestError, match="raw_input_contents: expected 5, one for each"):
        call(server, "ModelInfer", message, pb.ModelInferResponse)
    message = grpc_request("grpc", tensors_of(crystal(2)))
    message.inputs[0].contents.int_contents.append(18)
    expected = "atomic_numbers: expected either contents or raw_input_contents, got both"
    with pytest.raises(InvalidRequestError, match=expected):
        call(server, "ModelInfer", message, pb.ModelInferResponse)


def test_messages_are_refused_whose_contents_have_another_type(server):
    message = grpc_request("grpc contents", tensors_of(crystal(2)))
    message.inputs[1].contents.fp32_contents.append(0.0)
    expected = "positions: expected fp64_contents for FP64, got fp32_contents"
    with pytest.raises(InvalidRequestError, match=expected):
        call(server, "ModelInfer", message, pb.ModelInferResponse)


def test_other_messages_are_refused(server):
    with pytest.raises(InvalidRequestError, match=r"expected a .*ModelInferRequest message"):
        call(server, "ModelInfer", b"\xff\xff", pb.ModelInferResponse)


def test_large_bodies_are_refused(server):
    with pytest.raises(SystemTooLargeError, match=f"at most {MAX_BYTES} bytes"):
        post(server, INFER, b" " * (MAX_BYTES + 1))
    with pytest.raises(SystemTooLargeError, match=f"at most {MAX_BYTES} bytes"):
        call(server, "ModelInfer", b"\0" * (MAX_BYTES + 1), pb.ModelInferResponse)
    with pytest.raises(SystemTooLargeError, match=f"at most {MAX_BYTES} bytes"):
        post(server, "/v2/repository/index", b" " * (MAX_BYTES + 1))


@pytest.mark.parametrize("encoding", ["grpc", "grpc contents"])
@pytest.mark.parametrize(
    ("systems", "message"),
    [
        ([molecule(1)] * 6,
         "systems: expected at most 5 in one call (max_systems_per_call), got 6"),
        ([molecule(17)] * 3,
         "systems: expected at most 50 atoms in one call (max_atoms_per_call), got 51"),
    ],
)  # fmt: skip
def test_calls_of_too_many_systems_or_atoms_are_refused(server, encoding, systems, message):
    with pytest.raises(InvalidRequestError) as refused:
        call(
            server,
            "ModelInfer",
            grpc_request(encoding, tensors_of(*systems)),
            pb.ModelInferResponse,
        )
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"inputs": [' + b"{}," * 100 + b"{}]}", "at most 64 objects"),
        (b'{"inputs": [' + b"[]," * 2000 + b"[]]}", "at most 50 atoms"),
        (b'{"inputs": [' + b"0," * 2000 + b"0]}", "at most 50 atoms"),
        (b"{" + b'"a":0 ' * 1100 + b"}", "at most 1024 members"),
    ],
)
def test_bodies_are_counted_before_they_become_objects(server, content, expected):
    with pytest.raises(InvalidRequestError, match=f"^body: expected {expected}"):
        post(server, INFER, content)


def test_tensors_are_bounded_before_they_become_objects(server):
    message = pb.ModelInferRequest(model_name="soft")
    message.inputs.add(name="atomic_numbers", datatype="INT64", shape=[200_000])
    message.inputs[0].contents.int64_contents.extend([1] * 200_000)
    with pytest.raises(InvalidRequestError, match="at most 50 atoms in one call"):
        call(server, "ModelInfer", message, pb.ModelInferResponse)
    del message.inputs[0].shape[:]
    message.inputs[0].shape.append(2)
    with pytest.raises(InvalidRequestError, match="expected 2 values for shape"):
        call(server, "ModelInfer", message, pb.ModelInferResponse)
    charge = {"name": "charge", "datatype": "FP64", "shape": [6], "data": [0.0] * 6}
    assert "at most 5 in one call" in refusal(server, NUMBERS, POSITIONS, charge)


def test_messages_are_counted_before_they_become_objects(server):
    message = pb.ModelInferRequest(model_name="soft", inputs=[{}] * 2001)
    with pytest.raises(InvalidRequestError, match="expected at most 2000 fields"):
        call(server, "ModelInfer", message, pb.ModelInferResponse)


def test_a_system_that_is_too_large_is_named(server):
    message = grpc_request("grpc", tensors_of(molecule(2), molecule(21)))
    with pytest.raises(SystemTooLargeError) as refused:
        call(server, "ModelInfer", message, pb.ModelInferResponse)
    assert refused.value.system_index == 1


def test_requests_for_another_host_have_the_text_too(server):
    reply = httpx2.get(f"{server.rest_url}/v2", headers={"host": "elsewhere"}, timeout=PATIENCE)
    assert reply.status_code == 421
    assert reply.json()["error"].startswith("Host: expected ")


def test_errors_of_unknown_paths_have_the_text_too(server):
    reply = httpx2.get(f"{server.rest_url}/v2/models/soft/stats", timeout=PATIENCE)
    assert reply.status_code == 404
    assert reply.json()["error"] == reply.json()["detail"]
    assert "error" not in httpx2.get(f"{server.rest_url}/v1/nothing", timeout=PATIENCE).json()
    assert checked(httpx2.get(f"{server.rest_url}/v2", timeout=PATIENCE))
