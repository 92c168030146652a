"""Tests of the watchdog: an engine process that hangs is noticed and replaced, no other one is."""

import logging
import os
import signal
import threading
import time

import grpc
import httpx2
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import free_ports
from tests.service.conftest import PATIENCE
from tests.service.process.test_outliving import engine_pids, gated_crystal, md
from tests.service.process.test_restarts import Clock
from tests.service.troubled import HELIUM
from tests.systems import crystal, molecule
from tests.waiting import wait_until
from twinforce import Client, Integrator, Start
from twinforce_service.embedded import run_in_thread
from twinforce_service.process.pulse import Beat, SharedPulse
from twinforce_service.process.restarts import Restarts
from twinforce_service.process.watchdog import Watchdog
from twinforce_service.scheduling.request import JacobianRequest, Request
from twinforce_service.scheduling.time_limits import TimeLimits

ENERGY = frozenset({"energy"})


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watchdog(clock):
    return Watchdog(10.0, clock)


def looks(watchdog, clock, beat, seconds, step=0.25):
    """Look at the same sign for some time; return True if the engine hangs in the end."""
    is_hung = False
    for _ in range(round(seconds / step)):
        clock.now += step
        is_hung = watchdog.is_hung(beat)
    return is_hung


def test_an_engine_hangs_once_its_next_sign_is_overdue(watchdog, clock):
    assert not looks(watchdog, clock, Beat(7, 0.5), 10.5)
    assert looks(watchdog, clock, Beat(7, 0.5), 0.5)
    assert watchdog.age == pytest.approx(10.75)
    assert not looks(watchdog, clock, Beat(8, 0.0), 10.0)
    assert looks(watchdog, clock, Beat(8, 0.0), 0.5)


def test_an_engine_may_take_as_long_as_it_has_said(watchdog, clock):
    assert not looks(watchdog, clock, Beat(1, 300.0), 310.0)
    assert looks(watchdog, clock, Beat(1, 300.0), 0.5)


def test_the_time_that_the_watcher_slept_does_not_count(watchdog, clock):
    assert not looks(watchdog, clock, Beat(1, 0.0), 5.0)
    clock.now += 8 * 3600  # a laptop that is shut and opened again
    assert not watchdog.is_hung(Beat(1, 0.0))
    assert not looks(watchdog, clock, Beat(1, 0.0), 4.0)
    assert looks(watchdog, clock, Beat(1, 0.0), 1.0)


def test_nothing_hangs_if_the_watchdog_is_off(clock):
    assert not looks(Watchdog(0.0, clock), clock, Beat(1, 0.0), 3600.0)


def batch(n_systems=1, n_atoms=10, n_pairs=100, outputs=ENERGY):
    system = molecule(n_atoms)
    return [Request("lj", system, outputs, n_pairs=n_pairs) for _ in range(n_systems)]


def test_a_batch_may_take_ten_times_as_long_as_the_slowest_of_its_size():
    allowances = TimeLimits(10.0)
    for seconds in (0.2, 0.5, 0.3):
        allowances.begin(batch())
        allowances.end(seconds)
    assert allowances.begin(batch()) == pytest.approx(5.0, rel=0.05)
    for _ in range(1000):
        allowances.end(0.1)
    assert allowances.begin(batch()) == pytest.approx(1.0)


def learned(*batches, seconds=0.01):
    """Return the time limits after some batches."""
    found = TimeLimits(10.0)
    for each in batches:
        found.begin(each)
        found.end(seconds)
    return found


@pytest.mark.parametrize(
    "new",
    [
        batch(outputs=frozenset({"conservative_forces"})),
        [JacobianRequest("lj", molecule(10), ENERGY, n_pairs=100, rows=range(12))],
    ],
    ids=["with autograd", "rows of a jacobian"],
)
def test_a_batch_of_a_kind_that_was_never_seen_may_take_minutes(new):
    """It may compile kernels, and nobody knows how long it takes."""
    assert learned(batch()).begin(new) > 300.0


@pytest.mark.parametrize(
    "new",
    [batch(n_systems=4), batch(n_atoms=100), batch(n_pairs=1000), batch(n_atoms=1, n_pairs=0)],
    ids=["more systems", "more atoms", "more pairs", "fewer"],
)
def test_a_hang_in_a_batch_of_a_new_size_is_noticed_after_40_to_70_s(new, clock, watchdog):
    beat = Beat(1, learned(batch()).begin(new))
    assert not looks(watchdog, clock, beat, 40.0)
    assert looks(watchdog, clock, beat, 30.0)


def test_a_new_size_is_compared_with_the_known_one_that_bounds_it_best():
    found = learned(batch(n_atoms=8, n_pairs=8), batch(n_atoms=64, n_pairs=64), seconds=1.0)
    # Twice as many atoms as 64: ten times (4 s, and 1 s to compile), and 30 s.
    assert found.begin(batch(n_atoms=128, n_pairs=64)) == pytest.approx(80.0)


def test_a_new_size_may_compile_as_long_as_others_did():
    found = learned(batch(), seconds=25.0)
    for _ in range(2000):
        found.begin(batch())
        found.end(0.01)
    assert found.begin(batch(n_atoms=20)) == pytest.approx(280.0, rel=0.01)


def test_a_new_size_may_compile_as_long_as_the_warm_up_did():
    found = learned(batch())
    found.note_warm_up("lj", 20.0)
    found.note_warm_up("lj", 1.0)
    found.note_warm_up("other", 100.0)
    # Ten times 20 s and what is known, and 30 s; so it stays if the batch before took no time.
    assert found.begin(batch(n_atoms=20)) == pytest.approx(230.4, abs=0.5)


def test_a_system_that_an_engine_was_killed_for_may_still_compile_as_long_as_the_warm_up_did():
    found = TimeLimits(10.0)
    found.note_warm_up("lj", 20.0)
    (suspect,) = batch(n_atoms=10)
    suspect.is_suspect = True
    assert found.begin([suspect]) == pytest.approx(30.0 + 1.0 + 200.0)


def test_a_new_size_is_never_allowed_more_than_one_of_which_nothing_is_known():
    new = batch(n_atoms=1000, n_pairs=10**6)
    assert learned(batch(), seconds=5.0).begin(new) == TimeLimits(10.0).begin(new) == 400.0


def test_quadratic_growth_is_never_taken_for_a_hang():
    found = TimeLimits(10.0)
    for n_atoms in (1, 3, 10, 50, 200, 900):
        new = batch(n_atoms=n_atoms, n_pairs=n_atoms)
        seconds = 1e-4 * n_atoms**2
        assert found.begin(new) > seconds
        found.end(seconds)


def test_signs_of_life_name_the_requests_on_the_device(tmp_path):
    ours = SharedPulse.create(tmp_path, 3)
    theirs = SharedPulse(tmp_path)
    assert (ours.read(), ours.batch()) == (Beat(0, 0.0), [])
    requests = batch(n_systems=4)
    for number, request in enumerate(requests):
        request.number = 10 + number
    theirs.begin(requests[:2], 1.5)
    assert (ours.read(), ours.batch()) == (Beat(1, 1.5), [10, 11])
    theirs.begin(requests, 2.5)
    assert (ours.read(), ours.batch()) == (Beat(2, 2.5), [10, 11, 12])
    theirs.rest(4.0)
    assert (ours.read(), ours.batch()) == (Beat(3, 4.0), [])


def test_a_process_that_hangs_again_and_again_is_given_up():
    clock = Clock()
    restarts = Restarts(clock)
    for _ in range(3):
        restarts.note_ready()
        clock.now += 310  # it hung in its first batch, so it was never stable
        restarts.note_exit("did not respond", hung_for=309.0)
        assert not restarts.is_exhausted
    restarts.note_exit("did not respond", hung_for=10.0)
    assert restarts.is_exhausted


def test_a_start_is_limited_by_the_time_of_the_first_one():
    clock = Clock()
    restarts = Restarts(clock)
    assert restarts.longest_start == float("inf")
    clock.now += 40.0
    restarts.note_ready()
    assert restarts.longest_start == pytest.approx(400.0)


@pytest.fixture(scope="module")
def model(troubled_model):
    return {"troubled": str(troubled_model[0])}


OTHERS: set[int] = set()


@pytest.fixture(scope="module")
def server(model):
    OTHERS.update(engine_pids())
    with run_in_thread(free_ports(model=model, device="cpu", watchdog=2.0)) as server:
        yield server


def own_pids():
    """Return the ids of the engine processes of this module."""
    return set(engine_pids()) - OTHERS


def status(server, path="ready"):
    return httpx2.get(f"{server.rest_url}/health/{path}").status_code


def health(server):
    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest()).status


@pytest.mark.parametrize("is_busy", [True, False], ids=["in a batch", "idle"])
def test_a_stopped_engine_is_replaced_while_a_walker_goes_on(server, gate, is_busy, caplog):
    (pid,) = own_pids()
    seen, is_stopped = {}, threading.Event()

    def stop(step):
        if step == 5 and not is_busy:
            os.kill(pid, signal.SIGSTOP)
            is_stopped.set()

    def watch():
        with gate.starts_held():
            assert is_stopped.wait(PATIENCE)
            wait_until(lambda: status(server) == 503)
            seen["live"] = status(server, "live")
            wait_until(lambda: health(server) == health_pb2.HealthCheckResponse.NOT_SERVING)
        wait_until(lambda: status(server) == 200)

    watching = threading.Thread(target=watch)
    watching.start()
    with (
        caplog.at_level(logging.ERROR),
        Client(server.grpc_url, timeout=PATIENCE) as client,
        client.stream(model="troubled") as stream,
    ):
        if is_busy:
            asked = molecule(element=HELIUM)
            client.predict(asked, model="troubled")  # so that the time of its size is known
            with gate.closed():
                replies = []
                asking = threading.Thread(
                    target=lambda: replies.append(client.predict(asked, model="troubled"))
                )
                asking.start()
                wait_until(lambda: queue_is_empty(server))
                os.kill(pid, signal.SIGSTOP)
                is_stopped.set()
                wait_until(lambda: status(server) == 503)
            asking.join(PATIENCE)
            assert replies
        disturbed = md(stream, crystal(27), 10, after_step=stop)
        watching.join(PATIENCE)
        calm = md(stream, crystal(27), 10)
    np.testing.assert_array_equal(disturbed, calm)
    assert seen == {"live": 200}
    assert pid not in own_pids()
    assert "hangs and is killed: it did not respond for" in caplog.text


def queue_is_empty(server):
    """Return True once a request is on the device, as the gate keeps it there."""
    lines = httpx2.get(f"{server.rest_url}/metrics").text.splitlines()
    (line,) = (line for line in lines if line.startswith("twinforce_queue_requests "))
    return float(line.split()[1]) == 0


def test_a_propagation_continues_bit_for_bit_after_its_engine_was_stopped(server, gate):
    (pid,) = own_pids()
    begin = Start(gated_crystal(), np.zeros((27, 3)), Integrator(inner_steps=2), random=0)
    with Client(server.grpc_url) as client:
        expected = [each.checkpoint for each in client.propagate(begin, 40, 2)]
        found = []
        with gate.closed(n_allowed=15):  # past step 10, but not to the end
            for snapshot in client.propagate(begin, 40, 2):
                found.append(snapshot.checkpoint)
                if snapshot.step == 10:
                    os.kill(pid, signal.SIGSTOP)
                    gate.open()
    assert found == expected
    assert pid not in own_pids()


def test_only_the_engine_that_hangs_is_replaced(model, gate):
    before = own_pids()
    with run_in_thread(free_ports(model=model, device="cpu,cpu", watchdog=2.0)) as pair:
        one, other = sorted(own_pids() - before)
        with Client(pair.grpc_url, timeout=PATIENCE) as client, client.stream() as stream:
            energies = [client.predict(crystal()).energy, stream.predict(crystal()).energy]
            with gate.starts_held():
                os.kill(one, signal.SIGSTOP)
                wait_until(lambda: one not in own_pids())
                assert status(pair) == 200
                energies += [client.predict(crystal()).energy, stream.predict(crystal()).energy]
            wait_until(lambda: len(own_pids() - before) == 2)
        assert len(set(energies[::2])) == len(set(energies[1::2])) == 1
        assert other in own_pids()


def test_a_server_with_an_engine_that_hangs_ends_long_before_its_time_out(model):
    before = own_pids()
    settings = free_ports(model=model, device="cpu", watchdog=2.0, drain_timeout=PATIENCE)
    server = run_in_thread(settings)
    (pid,) = own_pids() - before
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < PATIENCE / 2
    assert pid not in own_pids()
