"""Tests that malformed messages are the error of their sender, never one of the service."""

import tracemalloc

import pytest

from tests.conftest import free_ports
from tests.fuzz.open_inference import send_as_tensors
from tests.fuzz.sending import Findings, send_over_grpc, send_over_rest
from tests.potentials import Soft, loaded
from twinforce_service.embedded import run_in_thread

# Bytes that Python and numpy take at once, while messages have at most 200 kB.
MAX_BYTES = 10_000_000


@pytest.fixture(scope="module")
def server():
    settings = free_ports(max_propagation_steps=100, max_jacobian_atoms=20)
    with run_in_thread(settings, lambda: {"soft": loaded(Soft())}) as server:
        yield server


def test_no_malformed_tensor_is_an_error_of_the_service(server):
    findings = Findings()
    tracemalloc.start()
    try:
        send_as_tensors(server.rest_url, server.grpc_url, 800, 3, findings)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not findings.failures
    assert peak < MAX_BYTES
    assert len(findings.outcomes) > 1


@pytest.mark.parametrize("transport", ["rest", "grpc"])
def test_no_malformed_message_is_an_error_of_the_service(server, transport):
    findings = Findings()
    send = {"rest": send_over_rest, "grpc": send_over_grpc}[transport]
    send(getattr(server, f"{transport}_url"), 400, 1, findings)
    assert not findings.failures
    assert len(findings.outcomes) > 1
