"""Tests that parameters of a request set its urgency and its timeout."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.conftest import free_ports
from tests.potentials import Gated, Soft, loaded
from tests.service.transports.open_inference.encodings import ENCODINGS, PATIENCE, infer, tensors_of
from tests.systems import molecule
from tests.waiting import wait_until
from twinforce_proto import DeadlineExceededError, InvalidRequestError
from twinforce_service.embedded import run_in_thread


@pytest.fixture(scope="module")
def server():
    with run_in_thread(free_ports(), lambda: {"soft": loaded(Soft())}) as server:
        yield server


@pytest.fixture(params=ENCODINGS)
def encoding(request):
    return request.param


def queue_depth(server):
    text = httpx2.get(f"{server.rest_url}/metrics").text
    (line,) = [each for each in text.splitlines() if each.startswith("twinforce_queue_requests")]
    return float(line.split()[-1])


def test_the_first_priority_is_evaluated_first(serve, encoding):
    potential = Gated()
    server = serve(free_ports(max_batch_atoms=20), soft=potential)
    for _ in range(2):
        potential.entered.acquire(timeout=PATIENCE)
    priorities = {1: None, 2: 8, 3: 0, 4: 1, 5: 3}
    with ThreadPoolExecutor(len(priorities) + 1) as pool:
        try:
            calls = [pool.submit(infer, server, encoding, tensors_of(molecule(20)), ["energy"])]
            assert potential.entered.acquire(timeout=PATIENCE)
            for n_atoms, priority in priorities.items():
                parameters = {} if priority is None else {"priority": priority}
                arrays = tensors_of(molecule(n_atoms))
                more = {"parameters": parameters, "headers": {"x-client-id": "one"}}
                calls.append(pool.submit(infer, server, encoding, arrays, ["energy"], **more))
                wait_until(lambda: queue_depth(server) == len(calls) - 1)
        finally:
            potential.gate.release(1000)
        assert all(call.result(PATIENCE).arrays for call in calls)
    assert potential.batches[-1] == (4, 5, 1, 3, 2)


def test_a_priority_goes_before_the_urgency_of_the_headers(server, encoding):
    arrays = tensors_of(molecule(2))
    with pytest.raises(InvalidRequestError, match="x-urgency"):
        infer(server, encoding, arrays, headers={"x-urgency": "8"})
    headers = {"x-urgency": "7"}
    assert infer(server, encoding, arrays, headers=headers, parameters={"priority": 1}).arrays


def test_a_timeout_is_in_microseconds(serve, encoding):
    potential = Gated()
    server = serve(free_ports(), soft=potential)
    arrays = tensors_of(molecule(2))
    begin = time.monotonic()
    try:
        with pytest.raises(DeadlineExceededError, match=r"not evaluated within 0\.2 s"):
            infer(server, encoding, arrays, parameters={"timeout": 200_000})
        assert 0.2 <= time.monotonic() - begin < PATIENCE / 2
    finally:
        potential.gate.release(1000)
    assert infer(server, encoding, arrays, parameters={"timeout": 0}).arrays


@pytest.mark.parametrize("timeout", ["0.2", "50"])
def test_the_shorter_one_of_two_timeouts_holds(serve, timeout):
    potential = Gated()
    server = serve(free_ports(), soft=potential)
    headers, parameters = {"X-Timeout-Seconds": timeout}, {"timeout": 300_000}
    expected = r"0\.2" if timeout == "0.2" else r"0\.3"
    try:
        with pytest.raises(DeadlineExceededError, match=f"not evaluated within {expected} s"):
            infer(server, "json", tensors_of(molecule(2)), headers=headers, parameters=parameters)
    finally:
        potential.gate.release(1000)


PRIORITY = "priority: expected 0, or a whole number from 1, the first, to 8, got"
TIMEOUT = "timeout: expected 0, or a positive whole number of microseconds below 2**63, got"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"priority": 9}, f"{PRIORITY} 9"),
        ({"priority": -1}, f"{PRIORITY} -1"),
        ({"priority": "high"}, f"{PRIORITY} 'high'"),
        ({"priority": True}, f"{PRIORITY} True"),
        ({"timeout": -1}, f"{TIMEOUT} -1"),
        ({"timeout": 0.5}, f"{TIMEOUT} 0.5"),
        ({"reply_dtype": "half"}, "reply_dtype: expected float64 or float32, got 'half'"),
        ({"sequence_id": 1}, "sequence_id: expected none, as this is not served, got 1"),
    ],
)
def test_invalid_parameters_are_refused(server, encoding, parameters, message):
    with pytest.raises(InvalidRequestError) as refused:
        infer(server, encoding, tensors_of(molecule(2)), parameters=parameters)
    assert refused.value.message == f"parameters.{message}"


@pytest.mark.parametrize("timeout", [2**63, 10**400], ids=["2**63", "10**400"])
def test_a_timeout_is_a_number_of_64_bits(server, timeout):
    arrays = tensors_of(molecule(2))
    with pytest.raises(InvalidRequestError) as refused:
        infer(server, "json", arrays, parameters={"timeout": timeout})
    assert refused.value.message.startswith(f"parameters.{TIMEOUT} {str(timeout)[:19]}")
    assert infer(server, "json", arrays, parameters={"timeout": 2**63 - 1}).arrays


def test_parameters_for_others_are_ignored(server, encoding):
    parameters = {
        "binary_data_output": encoding == "binary",
        "content_type": "np",
        "sequence_id": 0,
    }
    assert infer(server, encoding, tensors_of(molecule(2)), parameters=parameters).arrays
