"""Tests of the nonconservativity call over every transport."""

import asyncio
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import grpc
import httpx2
import numpy as np
import pytest

from tests.conftest import free_ports
from tests.potentials import NEON, Gated, NonFinite, Raising, Soft, WithoutDirect, loaded
from tests.service.transports.rest_bodies import json_system
from tests.systems import crystal, molecule
from tests.waiting import wait_until
from twinforce import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    InvalidRequestError,
    InvalidSystemError,
    NonFinitePredictionError,
    PredictionError,
    ServiceError,
    SystemTooLargeError,
    UnknownModelError,
    UnsupportedElementError,
    UnsupportedOutputError,
)
from twinforce_models.nonconservativity import direct_jacobian
from twinforce_models.potentials.toys.lennard_jones import lennard_jones
from twinforce_models.registry import load
from twinforce_proto import NonconservativityRequest, System
from twinforce_proto.codec.nonconservativity import nonconservativity_request_to_proto
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub
from twinforce_service.embedded import run_in_thread
from twinforce_service.engine.thread_engine import ThreadEngine

PATIENCE = 60.0
LJ = lennard_jones(swirl=0.01)
WIRES = ["grpc", "protobuf", "json"]
LIMITS = {"max_jacobian_atoms": 12, "jacobian_rows": 4}


@pytest.fixture(scope="module")
def server():
    """Run a service of several potentials that evaluates four rows of a Jacobian per batch."""
    potentials = {
        "lj": LJ,
        "water": load("water").potential,
        "soft": Soft(),
        "plain": WithoutDirect(),
        "nan": NonFinite(),
        "raising": Raising(),
    }
    models = {name: loaded(potential, name) for name, potential in potentials.items()}
    with run_in_thread(free_ports(**LIMITS), lambda: models) as server:
        yield server


@pytest.fixture(params=WIRES)
def client(server, request):
    with open_client(server, request.param) as client:
        yield client


def open_client(server, wire="grpc", **options):
    if wire == "grpc":
        return Client(server.grpc_url, timeout=PATIENCE, **options)
    return Client(server.rest_url, encoding=wire, timeout=PATIENCE, **options)


def by_central_differences(client, model, system, step=1e-4):
    """Return the Jacobian of the direct forces, from predictions for displaced systems."""
    n_coordinates = 3 * len(system)
    moves = step * np.eye(n_coordinates).reshape(n_coordinates, -1, 3)
    displaced = [system.moved(system.positions + sign * m) for m in moves for sign in (1, -1)]
    answers = client.predict(displaced, "direct_forces", model)
    forward, backward = (
        np.array([each.direct_forces.ravel() for each in answers[i::2]]) for i in (0, 1)
    )
    return ((forward - backward) / (2 * step)).T


@pytest.mark.parametrize("system", [crystal(8), molecule(5)], ids=["crystal", "molecule"])
def test_the_value_of_a_toy_equals_its_closed_form_and_central_differences(client, system):
    found = client.nonconservativity(system, "lj", pairs=True)
    exact = LJ.direct_jacobian(system)
    odd = (exact - exact.T) / 2
    assert found.value == pytest.approx(LJ.exact_lambda(system), rel=1e-12)
    assert 0.001 < found.value < 1
    assert found.jacobian_norm == pytest.approx(np.linalg.norm(exact), rel=1e-12)
    assert found.antisymmetric_norm == pytest.approx(np.linalg.norm(odd), rel=1e-12)
    measured = by_central_differences(client, "lj", system)
    np.testing.assert_allclose(measured, exact, atol=1e-8)
    odd = (measured - measured.T) / 2
    assert found.value == pytest.approx(np.linalg.norm(odd) / np.linalg.norm(measured), rel=1e-5)


def test_pair_norms_are_norms_of_blocks_and_add_up(client):
    system = crystal(4)
    found = client.nonconservativity(system, "lj", pairs=True)
    exact = LJ.direct_jacobian(system)
    for norms, matrix, total in (
        (found.pair_norms, exact, found.jacobian_norm),
        (found.antisymmetric_pair_norms, (exact - exact.T) / 2, found.antisymmetric_norm),
    ):
        assert norms.shape == (4, 4)
        blocks = [
            [matrix[3 * i : 3 * i + 3, 3 * j : 3 * j + 3] for j in range(4)] for i in range(4)
        ]
        expected = [[np.linalg.norm(block) for block in row] for row in blocks]
        np.testing.assert_allclose(norms, expected, rtol=1e-6)
        assert np.linalg.norm(norms) == pytest.approx(total, rel=1e-6)


def test_pair_norms_are_returned_only_on_request(client):
    found = client.nonconservativity(crystal(4), "lj")
    assert found.pair_norms is None
    assert found.antisymmetric_pair_norms is None


def test_the_value_of_the_bundled_model_is_that_of_its_jacobian(client):
    system = System(
        [8, 1, 1, 8, 1, 1],
        [[0, 0, 0], [0.97, 0, 0], [-0.24, 0.94, 0], [0, 0, 2.8], [0.6, 0, 3.5], [-0.6, 0.2, 3.5]],
        np.diag([6.0, 6.0, 7.0]),
        pbc=True,
    )
    jacobian = direct_jacobian(load("water").potential, system).double().numpy()
    odd = (jacobian - jacobian.T) / 2
    found = client.nonconservativity(system, "water")
    assert found.value == pytest.approx(np.linalg.norm(odd) / np.linalg.norm(jacobian), rel=1e-5)
    assert found.jacobian_norm == pytest.approx(np.linalg.norm(jacobian), rel=1e-5)


def test_the_value_of_conservative_forces_is_zero_up_to_rounding(client):
    found = client.nonconservativity(crystal(8), "lj", output="conservative_forces")
    assert found.value < 1e-14
    without_swirl = lennard_jones(swirl=0.0).direct_jacobian(crystal(8))
    assert found.jacobian_norm == pytest.approx(np.linalg.norm(without_swirl), rel=1e-12)


def test_the_value_of_a_single_atom_is_zero(client):
    assert client.nonconservativity(molecule(1), "lj", pairs=True).value == 0.0
    assert client.nonconservativity(molecule(1), "lj", output="conservative_forces").value == 0.0


def test_a_reply_has_a_provenance_and_timings(client):
    found = client.nonconservativity(crystal(8), "lj")
    assert found.provenance.model == "lj"
    assert found.provenance.dtype == "float64"
    assert found.timings.compute_s > 0
    assert (found.timings.batch_n_systems, found.timings.batch_n_atoms) == (1, 8)


@pytest.mark.parametrize("wire", WIRES)
def test_the_async_client_gets_the_same_value(server, wire):
    async def ask():
        url = server.grpc_url if wire == "grpc" else server.rest_url
        options = {} if wire == "grpc" else {"encoding": wire}
        async with AsyncClient(url, **options) as client:
            asked = (client.nonconservativity(crystal(8), "lj", pairs=True) for _ in range(3))
            return await asyncio.gather(*asked)

    for found in asyncio.run(ask()):
        assert found.value == pytest.approx(LJ.exact_lambda(crystal(8)), rel=1e-12)
        assert found.pair_norms.shape == (8, 8)


REFUSED = {
    "no such model": (("ice", molecule()), UnknownModelError, "served: lj, nan"),
    "no direct forces": (("plain", molecule()), UnsupportedOutputError, "has no direct_forces"),
    "too large": (("lj", molecule(13)), SystemTooLargeError, "at most 12 atoms .*, got 13"),
    "unknown element": (("soft", molecule(element=8)), UnsupportedElementError, "got 8"),
    "raises": (("raising", molecule(element=NEON)), PredictionError, "no neon, please"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_failing_call_does_not_affect_the_next(client, case):
    (model, system), kind, text = REFUSED[case]
    with pytest.raises(kind, match=text):
        client.nonconservativity(system, model)
    assert client.nonconservativity(molecule(), "soft").value < 1e-12


def test_a_derivative_that_is_not_finite_is_an_error(client):
    collapsed = System([18, 18], np.zeros((2, 3)))
    with pytest.raises(NonFinitePredictionError, match=r"conservative_forces: .* NaN"):
        client.nonconservativity(collapsed, "lj", output="conservative_forces")


def test_outputs_other_than_forces_are_refused(server):
    body = {"system": json_system(molecule()), "output": "energy"}
    reply = httpx2.post(f"{server.rest_url}/v1/models/lj/nonconservativity", json=body)
    assert reply.status_code == 422
    assert "expected direct_forces or conservative_forces, got 'energy'" in reply.json()["detail"]
    with open_client(server) as client, pytest.raises(InvalidRequestError, match="got 'energy'"):
        client.nonconservativity(molecule(), "lj", output="energy")


def test_an_invalid_body_is_refused_with_its_field(server):
    body = {"system": json_system(molecule()) | {"positions": [[0.0, 0.0]]}}
    url = f"{server.rest_url}/v1/models/lj/nonconservativity"
    assert httpx2.post(url, json=body).json()["field"] == "positions"
    assert httpx2.post(url, json={}).json()["field"] == "system"
    reply = httpx2.post(url, content=b"\x0a", headers={"content-type": "application/x-protobuf"})
    assert "expected a twinforce.v1.NonconservativityRequest message" in reply.json()["detail"]
    with pytest.raises(InvalidSystemError):
        System([18], [[0.0, 0.0]])


@pytest.fixture
def gated(serve):
    """Return a service and its potential, which waits at a gate."""
    potential = Gated()
    settings = free_ports(max_waiting_atoms=5, **LIMITS)
    yield serve(settings, soft=potential), potential
    potential.gate.release(1000)


def entered(potential, n=1):
    for _ in range(n):
        assert potential.entered.acquire(timeout=PATIENCE)


def metric(server, name):
    lines = httpx2.get(f"{server.rest_url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("wire", ["grpc", "protobuf"])
def test_other_requests_are_evaluated_between_rows(gated, wire):
    server, potential = gated
    with open_client(server, wire) as client, ThreadPoolExecutor(2) as pool:
        measured = pool.submit(client.nonconservativity, molecule(4), "soft")
        entered(potential, 3)  # two for the warm-up
        for _ in range(2):
            walker = pool.submit(client.predict, molecule(2), "energy", "soft")
            wait_until(lambda: metric(server, "twinforce_queue_requests") == 1)
            potential.gate.release()
            entered(potential)
            potential.gate.release()
            assert walker.result(PATIENCE).energy > 0
            assert not measured.done()
            entered(potential)
        potential.gate.release(1000)
        assert measured.result(PATIENCE).value < 1e-12
    assert potential.batches[2:] == [(4,), (2,), (4,), (2,), (4,)]
    wait_until(lambda: metric(server, "twinforce_jacobian_rows_total") == 12)
    assert metric(server, "twinforce_evaluations_total") == 2


def test_a_queue_that_becomes_full_only_delays_the_next_rows(gated):
    server, potential = gated
    with open_client(server) as client, ThreadPoolExecutor(3) as pool:
        measured = pool.submit(client.nonconservativity, molecule(4), "soft")
        entered(potential, 3)
        others = [pool.submit(client.predict, molecule(1), "energy", "soft")]
        wait_until(lambda: metric(server, "twinforce_queue_atoms") == 1)
        others.append(pool.submit(client.predict, molecule(3), "hybrid", "soft"))
        wait_until(lambda: metric(server, "twinforce_queue_atoms") == 4)
        potential.gate.release()
        entered(potential)  # the first of the others; the second leaves no room for four atoms
        assert metric(server, "twinforce_queue_atoms") == 3
        time.sleep(0.2)
        assert not measured.done()
        potential.gate.release(1000)
        assert all(other.result(PATIENCE) for other in others)
        assert measured.result(PATIENCE).value < 1e-12


def outcome(server, transport, kind):
    labels = f'{{model="soft",outcome="{kind}",transport="{transport}"}}'
    return metric(server, f"twinforce_requests_total{labels}")


def canceled_grpc_call(server, potential):
    message = nonconservativity_request_to_proto(NonconservativityRequest("soft", molecule(4)))
    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        call = InferenceStub(channel).Nonconservativity.future(message, timeout=PATIENCE)
        entered(potential, 3)
        call.cancel()
        wait_until(lambda: outcome(server, "grpc", "RequestCancelledError") == 1)


def closed_rest_connection(server, potential):
    address = urlsplit(server.rest_url)
    body = json.dumps({"system": json_system(molecule(4))}).encode()
    head = (
        "POST /v1/models/soft/nonconservativity HTTP/1.1\r\nhost: localhost\r\n"
        f"content-length: {len(body)}"
    )
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        entered(potential, 3)
    wait_until(lambda: outcome(server, "rest", "RequestCancelledError") == 1)


@pytest.mark.parametrize("disconnect", [canceled_grpc_call, closed_rest_connection])
def test_no_more_rows_are_evaluated_after_the_client_has_disconnected(gated, disconnect, caplog):
    server, potential = gated
    disconnect(server, potential)
    potential.gate.release(1000)
    with open_client(server) as client:
        assert client.predict(molecule(2), "energy", "soft").energy > 0
        assert client.nonconservativity(molecule(1), "soft").value == 0.0
    assert potential.batches[2:] == [(4,), (2,), (1,)]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("wire", ["grpc", "protobuf"])
def test_no_more_rows_are_evaluated_after_the_deadline(gated, wire):
    server, potential = gated
    options = {"encoding": wire} if wire != "grpc" else {}
    url = server.grpc_url if wire == "grpc" else server.rest_url
    hurried = Client(url, timeout=2.0, max_retries=0, **options)
    with hurried, pytest.raises(DeadlineExceededError):
        hurried.nonconservativity(molecule(4), "soft")
    # The service has counted the call, so no more rows follow.
    wait_until(lambda: metric(server, "twinforce_requests_total") == 1)
    potential.gate.release(1000)
    with open_client(server) as client:
        assert client.predict(molecule(2), "energy", "soft").energy > 0
    assert potential.batches[2:] == [(4,), (2,)]


def test_jacobians_are_evaluated_one_after_the_other(gated):
    server, potential = gated
    with open_client(server) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.nonconservativity, molecule(4), "soft")
        entered(potential, 3)
        second = pool.submit(client.nonconservativity, molecule(3), "soft")
        potential.gate.release(1000)
        assert first.result(PATIENCE).value < 1e-12
        assert second.result(PATIENCE).value < 1e-12
    assert potential.batches[2:] == [(4,)] * 3 + [(3,)] * 3


def test_a_service_that_stops_does_not_finish_a_jacobian(serve, monkeypatch):
    potential, engines = Gated(), []
    start = ThreadEngine.start
    monkeypatch.setattr(ThreadEngine, "start", lambda self: engines.append(self) or start(self))
    server = serve(free_ports(**LIMITS), soft=potential)
    with open_client(server, max_retries=0) as client, ThreadPoolExecutor(2) as pool:
        measured = pool.submit(client.nonconservativity, molecule(4), "soft")
        entered(potential, 3)
        stopping = pool.submit(server.stop)
        wait_until(lambda: not engines[0].is_ready)
        potential.gate.release(1000)
        with pytest.raises(ServiceError):
            measured.result(PATIENCE)
        stopping.result(PATIENCE)
    assert len(potential.batches) == 3
