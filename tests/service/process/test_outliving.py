"""Tests of a service whose engine processes are killed, with one device and with two."""

import os
import signal
import threading
from collections import deque
from pathlib import Path

import grpc
import httpx2
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import free_ports
from tests.service.conftest import PATIENCE
from tests.service.troubled import ARGON, HELIUM
from tests.systems import crystal
from tests.waiting import wait_until
from twinforce import Client, Integrator, Start
from twinforce_dynamics.codec.propagation import propagate_request_to_proto
from twinforce_dynamics.requests import PropagateRequest
from twinforce_proto import System
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub
from twinforce_service.embedded import run_in_thread

RESTARTS = 'twinforce_engine_restarts_total{device="cpu",environment="main"}'
PROGRAM = b"twinforce_service.process.engine_process"


PIDS_OF_OTHER_TESTS: set[int] = set()


@pytest.fixture(scope="module")
def models(troubled_model):
    return {"troubled": str(troubled_model[0])}


@pytest.fixture(scope="module")
def server(models):
    PIDS_OF_OTHER_TESTS.update(engine_pids())
    with run_in_thread(free_ports(model=models, device="cpu")) as server:
        yield server


def engine_pids():
    """Return the ids of the engine processes that the tests of this module have started."""
    pids = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            arguments = (status.parent / "cmdline").read_bytes().split(b"\0")
        except FileNotFoundError:  # the process has exited meanwhile
            continue
        if parent == os.getpid() and PROGRAM in arguments:
            pids.append(int(status.parent.name))
    return sorted(set(pids) - PIDS_OF_OTHER_TESTS)


def is_ready(server):
    return httpx2.get(f"{server.rest_url}/health/ready").status_code == 200


def n_restarts(server):
    lines = httpx2.get(f"{server.rest_url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(RESTARTS))


def health(server):
    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest()).status


def gated_crystal():
    """Return a crystal that is not evaluated while the gate is closed."""
    system = crystal(27)
    return System([HELIUM] + [ARGON] * 26, system.positions, system.cell, system.pbc)


def md(stream, system, n_steps, dt=0.02, after_step=lambda _: None):
    """Run velocity Verlet with masses of 1 and return the last positions."""
    velocities = np.zeros_like(system.positions)
    forces = stream.predict(system).conservative_forces
    for step in range(n_steps):
        velocities = velocities + 0.5 * dt * forces
        system = system.moved(system.positions + dt * velocities)
        forces = stream.predict(system).conservative_forces
        velocities = velocities + 0.5 * dt * forces
        after_step(step)
    return system.positions


def test_molecular_dynamics_over_a_stream_continues_after_the_engine_was_killed(server, gate):
    (pid,) = engine_pids()
    n_before = n_restarts(server)
    seen, is_killed = {}, threading.Event()

    def kill(step):
        if step == 10:
            os.kill(pid, signal.SIGKILL)
            is_killed.set()

    def query():
        with gate.starts_held():
            assert is_killed.wait(PATIENCE)
            wait_until(lambda: not is_ready(server))
            seen["live"] = httpx2.get(f"{server.rest_url}/health/live").status_code
            seen["models"] = httpx2.get(f"{server.rest_url}/v1/models/troubled").status_code
            wait_until(lambda: health(server) == health_pb2.HealthCheckResponse.NOT_SERVING)
            seen["health"] = "not serving"

    querying = threading.Thread(target=query)
    querying.start()
    with Client(server.grpc_url, timeout=2 * PATIENCE) as client, client.stream() as stream:
        disturbed = md(stream, crystal(27), 20, after_step=kill)
        calm = md(stream, crystal(27), 20)
    querying.join(PATIENCE)
    np.testing.assert_array_equal(disturbed, calm)
    assert seen == {"live": 200, "models": 200, "health": "not serving"}
    assert is_ready(server)
    assert n_restarts(server) == n_before + 1
    wait_until(lambda: health(server) == health_pb2.HealthCheckResponse.SERVING)


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_a_propagation_continues_bit_for_bit_after_the_engine_was_killed(server, gate, transport):
    (pid,) = engine_pids()
    n_before = n_restarts(server)
    begin = Start(gated_crystal(), np.zeros((27, 3)), Integrator(inner_steps=2), random=0)
    with Client(server.grpc_url if transport == "grpc" else server.rest_url) as client:
        expected = [each.checkpoint for each in client.propagate(begin, 40, 2)]
        found = []
        with gate.closed(n_allowed=15):  # past step 10, but not to the end
            for snapshot in client.propagate(begin, 40, 2):
                found.append(snapshot.checkpoint)
                if snapshot.step == 10:
                    os.kill(pid, signal.SIGKILL)
                    gate.open()
    assert found == expected
    assert n_restarts(server) == n_before + 1
    assert engine_pids() != [pid]


def test_a_bare_stub_of_propagate_gets_unavailable_when_the_engine_is_killed(server):
    (pid,) = engine_pids()
    begin = Start(crystal(27), np.zeros((27, 3)), Integrator(inner_steps=2))
    wanted = propagate_request_to_proto(PropagateRequest("troubled", begin, 400_000, 2))
    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        snapshots = InferenceStub(channel).Propagate(wanted)
        assert next(snapshots).step == 0
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(grpc.RpcError, match="being restarted") as caught:
            deque(snapshots, maxlen=0)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    wait_until(lambda: is_ready(server))


def test_a_request_during_a_restart_gets_503_with_retry_after(server, gate):
    (pid,) = engine_pids()
    url = f"{server.rest_url}/v1/models/troubled/energy"
    body = {"systems": [{"atomic_numbers": [18], "positions": [[0, 0, 0]]}]}
    with gate.starts_held():
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_ready(server))
        reply = httpx2.post(url, json=body)
    assert reply.status_code == 503
    assert "being restarted" in reply.json()["detail"]
    assert int(reply.headers["retry-after"]) >= 1
    wait_until(lambda: is_ready(server))


def test_each_of_two_devices_takes_over_for_the_other(models, gate):
    before = set(engine_pids())
    with run_in_thread(free_ports(model=models, device="cpu,cpu")) as server:
        one, other = set(engine_pids()) - before
        with Client(server.grpc_url, timeout=PATIENCE) as client, client.stream() as stream:
            energies = [client.predict(crystal()).energy, stream.predict(crystal()).energy]
            with gate.starts_held():
                os.kill(one, signal.SIGKILL)
                wait_until(lambda: not exists(one))
                energies += [client.predict(crystal()).energy, stream.predict(crystal()).energy]
                assert is_ready(server)
                os.kill(other, signal.SIGKILL)
                wait_until(lambda: not is_ready(server))
            energies += [client.predict(crystal()).energy, stream.predict(crystal()).energy]
        assert len(set(energies[::2])) == len(set(energies[1::2])) == 1
        wait_until(lambda: n_restarts(server) == 2)
    assert set(engine_pids()) == before


def exists(pid):
    return Path(f"/proc/{pid}").exists()
