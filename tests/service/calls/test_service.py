"""Tests of runs over every transport: shared batches, flow control, disconnects and resumption."""

import asyncio
import itertools
import threading
import time
from contextlib import closing

import grpc
import httpx2
import numpy as np
import pytest

from tests.clients.proxy import CountingProxy
from tests.clients.serving import ARGON, port_of, serve
from tests.potentials import NEON, Gated, NonFinite, Soft, loaded
from tests.service.calls.conftest import start
from tests.systems import crystal
from tests.waiting import wait_until
from twinforce import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    Integrator,
    OverloadedError,
    PredictionError,
    ServiceError,
    Start,
    System,
    UnavailableError,
)
from twinforce.ensembles import SVR
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub

MTS = Integrator(inner_steps=4)


def soft_start(n_atoms=8, seed=0, element=ARGON, integrator=MTS):
    rng = np.random.default_rng(seed)
    velocities = 0.01 * rng.standard_normal((n_atoms, 3))
    return Start(crystal(n_atoms, seed, element), velocities, integrator, random=seed)


def outcome(snapshots):
    """Return all snapshots, and the error that follows them, or None."""
    seen = []
    try:
        for snapshot in snapshots:
            seen.append(snapshot)  # noqa: PERF402 - snapshots before an error are kept
    except ServiceError as error:
        return seen, error
    return seen, None


def settled(count, pause=0.3, seconds=120.0):
    """Return a count once it has stopped growing; fail if it keeps growing."""
    end = time.monotonic() + seconds
    before = -1
    while (now := count()) != before:
        assert time.monotonic() < end, "the count keeps growing"
        before = now
        time.sleep(pause)
    return now


def metric(server, name):
    lines = httpx2.get(f"{server.rest_url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def n_running(server):
    return metric(server, "twinforce_propagations ")


def assert_nothing_else_is_evaluated(client, soft):
    """Assert that the engine evaluates nothing between two consecutive calls."""
    client.predict(crystal(2), model="soft")
    n_evaluated = len(soft.batches)
    client.predict(crystal(2), model="soft")
    assert len(soft.batches) == n_evaluated + 1


def test_runs_of_different_clients_share_batches():
    soft = Gated()
    with serve({"soft": loaded(soft)}) as server:
        n_warm_up = len(soft.batches)

        def propagate(seed):
            with Client(server.grpc_url) as client:
                for _ in client.propagate(soft_start(seed=seed), 8, 4):
                    pass

        walkers = [threading.Thread(target=propagate, args=(seed,)) for seed in range(4)]
        for walker in walkers:
            walker.start()
        wait_until(lambda: n_running(server) == 4)
        soft.gate.release(10_000)
        for walker in walkers:
            walker.join()
        sizes = [len(batch) for batch in soft.batches[n_warm_up:]]
        assert sum(sizes) == 4 * 9  # the start, and eight steps, of each
        assert max(sizes) > 1
        # Replies are sent before their batch is counted.
        wait_until(lambda: metric(server, "twinforce_batch_systems_sum") == sum(sizes))
        assert metric(server, "twinforce_batch_systems_count") == len(sizes)
        wait_until(lambda: n_running(server) == 0)


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_a_client_that_disconnects_ends_its_run(transport):
    soft = Soft()
    with (
        serve({"soft": loaded(soft)}) as server,
        Client(server.grpc_url if transport == "grpc" else server.rest_url) as client,
    ):
        with closing(client.propagate(soft_start(), 400_000, 4)) as snapshots:
            for _ in itertools.islice(snapshots, 3):
                pass
        wait_until(lambda: n_running(server) == 0)
        assert_nothing_else_is_evaluated(client, soft)


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_a_connection_that_is_lost_during_a_step_ends_the_run(transport):
    soft = Gated()
    with serve({"soft": loaded(soft)}) as server:
        url = server.grpc_url if transport == "grpc" else server.rest_url
        proxy = CountingProxy(port_of(url))
        near = f"{url.partition(':')[0]}://127.0.0.1:{proxy.port}"
        with closing(proxy), Client(near, max_retries=0) as client:
            soft.gate.release()
            snapshots = client.propagate(soft_start(), 400_000, 400_000, model="soft")
            assert next(snapshots).step == 0
            for _ in range(4):  # two for the warm-up, the start, and the step that is held
                assert soft.entered.acquire(timeout=60)
            proxy.cut()
            with pytest.raises(UnavailableError):
                next(snapshots)
        wait_until(lambda: n_running(server) == 0)
        soft.gate.release(100_000)
        with Client(url) as client:
            assert_nothing_else_is_evaluated(client, soft)


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_updates_are_not_computed_far_ahead_of_the_client(transport):
    soft = Soft()
    with (
        serve({"soft": loaded(soft)}) as server,
        Client(server.grpc_url if transport == "grpc" else server.rest_url) as client,
    ):
        begin = soft_start(n_atoms=64, integrator=Integrator(force_kind="direct"))
        with closing(client.propagate(begin, 1_000_000, 1)) as snapshots:
            assert next(snapshots).step == 0
            n_evaluated = settled(lambda: len(soft.batches), seconds=240.0)
            assert n_evaluated < 20_000
            for _ in itertools.islice(snapshots, n_evaluated):
                pass
            wait_until(lambda: len(soft.batches) > n_evaluated)


def test_a_deadline_ends_a_run(client):
    with pytest.raises(DeadlineExceededError):
        list(client.propagate(start(MTS), 400_000, 4, timeout=0.5))


def test_a_diverging_run_ends_with_an_error_after_its_last_valid_snapshot(client):
    atoms = System([ARGON, ARGON], [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    integrator = Integrator(time_step_fs=400.0, force_kind="conservative")
    begin = Start(atoms, np.zeros((2, 3)), integrator)
    seen, error = outcome(client.propagate(begin, 1000, 1))
    assert isinstance(error, PredictionError)
    assert str(error).startswith(f"after step {seen[-1].step} the system cannot be followed")
    assert all(np.isfinite(each.positions).all() for each in seen)


def test_a_start_that_cannot_be_evaluated_is_refused():
    with serve({"soft": loaded(NonFinite())}) as server, Client(server.grpc_url) as client:
        with pytest.raises(PredictionError):
            next(client.propagate(soft_start(element=NEON), 4))
        assert [each.step for each in client.propagate(soft_start(), 4)] == [0, 4]


def test_the_number_of_active_runs_is_limited():
    soft = Soft()
    with (
        serve({"soft": loaded(soft)}, max_propagations=1) as server,
        Client(server.grpc_url) as client,
        closing(client.propagate(soft_start(), 400_000, 4)) as snapshots,
    ):
        next(snapshots)
        with pytest.raises(OverloadedError, match="1 systems are already being moved"):
            # Shorter than the advised pause, so that the client does not retry.
            next(client.propagate(soft_start(), 4, timeout=4.0))


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_a_client_resumes_from_the_last_snapshot_after_a_lost_connection(server, transport):
    url = server.grpc_url if transport == "grpc" else server.rest_url
    integrator = Integrator(inner_steps=2, ensemble=SVR(temperature_k=60.0, relaxation_fs=50))
    with Client(url) as client:
        expected = list(client.propagate(start(integrator), 600, 2))
    proxy = CountingProxy(port_of(url), cut_after=[30_000, 30_000])
    with (
        closing(proxy),
        Client(f"{url.partition(':')[0]}://127.0.0.1:{proxy.port}", max_retries=8) as client,
    ):
        found = list(client.propagate(start(integrator), 600, 2))
    assert proxy.n_connections >= 3
    assert [each.checkpoint for each in found] == [each.checkpoint for each in expected]


def test_another_service_resumes_the_run_of_a_service_that_stops():
    with serve(drain_timeout=60.0) as server, Client(server.grpc_url, max_retries=0) as client:
        snapshots = client.propagate(start(MTS), 400_000, 4)
        first = next(snapshots)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        seen, error = outcome(snapshots)
        assert isinstance(error, UnavailableError)
        stopping.join()
    last = [first, *seen][-1]
    with serve() as other, Client(other.grpc_url) as client:
        assert next(client.propagate(last, 4)).step == last.step + 4


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_an_async_client_moves_several_systems_at_once(server, transport):
    url = server.grpc_url if transport == "grpc" else server.rest_url

    async def steps(client, seed):
        begin = start(MTS, seed=seed)
        return [each.checkpoint async for each in client.propagate(begin, 16, 8)]

    async def all_steps():
        async with AsyncClient(url) as client:
            return await asyncio.gather(*(steps(client, seed) for seed in range(3)))

    with Client(url) as client:
        alone = [each.checkpoint for each in client.propagate(start(MTS, seed=1), 16, 8)]
    together = asyncio.run(all_steps())
    assert [len(each) for each in together] == [3, 3, 3]
    assert len(together[1][-1]) == len(alone[-1])


def test_a_bare_stub_gets_the_status_of_the_error(server):
    channel = grpc.insecure_channel(server.grpc_url.removeprefix("grpc://"))
    with channel, pytest.raises(grpc.RpcError) as caught:
        next(InferenceStub(channel).Propagate(pb.PropagateRequest(model="lj", n_steps=1)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected a start or a checkpoint" in caught.value.details()
