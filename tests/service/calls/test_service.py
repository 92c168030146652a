"""How the service moves systems: together, no faster than is read, and not for those who left."""

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
from twinforce.ensembles import FS, SVR
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub

MTS = Integrator(inner_steps=4)


def soft_start(n_atoms=8, seed=0, element=ARGON, integrator=MTS):
    rng = np.random.default_rng(seed)
    velocities = 0.01 * rng.standard_normal((n_atoms, 3))
    return Start(crystal(n_atoms, seed, element), velocities, integrator, random=seed)


def until(is_reached, seconds=60.0):
    """Wait for what happens elsewhere; fail if it does not."""
    end = time.monotonic() + seconds
    while not is_reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def outcome(snapshots):
    """Return all snapshots, and the error after the last one."""
    seen = []
    try:
        for snapshot in snapshots:
            seen.append(snapshot)  # noqa: PERF402 - what was seen before the error counts
    except ServiceError as error:
        return seen, error
    return seen, None


def settled(count, pause=0.3, seconds=120.0):
    """Return a count once it has stopped growing; fail if it goes on."""
    end = time.monotonic() + seconds
    before = -1
    while (now := count()) != before:
        assert time.monotonic() < end, "it goes on"
        before = now
        time.sleep(pause)
    return now


def metric(server, name):
    lines = httpx2.get(f"{server.rest_url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def n_moving(server):
    return metric(server, "twinforce_propagations ")


def assert_only_this_is_computed(client, soft):
    """Check that the engine evaluates nothing between two consecutive calls but the second one."""
    client.predict(crystal(2), model="soft")
    n_evaluated = len(soft.batches)
    client.predict(crystal(2), model="soft")
    assert len(soft.batches) == n_evaluated + 1


def test_walkers_of_different_callers_share_batches():
    soft = Gated()
    with serve({"soft": loaded(soft)}) as server:
        n_warm_up = len(soft.batches)

        def follow(seed):
            with Client(server.grpc_url) as client:
                for _ in client.propagate(soft_start(seed=seed), 8, 4):
                    pass

        walkers = [threading.Thread(target=follow, args=(seed,)) for seed in range(4)]
        for walker in walkers:
            walker.start()
        until(lambda: n_moving(server) == 4)
        soft.gate.release(10_000)
        for walker in walkers:
            walker.join()
        sizes = [len(batch) for batch in soft.batches[n_warm_up:]]
        assert sum(sizes) == 4 * 9  # the start, and eight steps, of each
        assert max(sizes) > 1
        # Replies go out before their batch is counted.
        until(lambda: metric(server, "twinforce_batch_systems_sum") == sum(sizes))
        assert metric(server, "twinforce_batch_systems_count") == len(sizes)
        until(lambda: n_moving(server) == 0)


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_a_caller_that_leaves_ends_the_work(transport):
    soft = Soft()
    with (
        serve({"soft": loaded(soft)}) as server,
        Client(server.grpc_url if transport == "grpc" else server.rest_url) as client,
    ):
        with closing(client.propagate(soft_start(), 400_000, 4)) as snapshots:
            for _ in itertools.islice(snapshots, 3):
                pass
        until(lambda: n_moving(server) == 0)
        assert_only_this_is_computed(client, soft)


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_a_connection_that_is_lost_during_a_step_ends_the_work(transport):
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
        until(lambda: n_moving(server) == 0)
        soft.gate.release(100_000)
        with Client(url) as client:
            assert_only_this_is_computed(client, soft)


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_nothing_is_computed_far_ahead_of_what_is_read(transport):
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
            until(lambda: len(soft.batches) > n_evaluated)


def test_a_deadline_ends_the_work(client):
    with pytest.raises(DeadlineExceededError):
        list(client.propagate(start(MTS), 400_000, 4, timeout=0.5))


def test_what_flies_apart_ends_with_an_error_after_the_last_good_snapshot(client):
    atoms = System([ARGON, ARGON], [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    integrator = Integrator(time_step=400 * FS, force_kind="conservative")
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


def test_only_so_many_move_at_once():
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
def test_a_lost_connection_is_gone_on_from_the_last_snapshot(server, transport):
    url = server.grpc_url if transport == "grpc" else server.rest_url
    integrator = Integrator(inner_steps=2, ensemble=SVR(temperature_k=60.0, relaxation=50 * FS))
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


def test_a_service_that_stops_lets_go_and_another_one_goes_on():
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
def test_many_move_at_once_with_asyncio(server, transport):
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


def test_a_bare_stub_is_told_the_error_of_the_tree(server):
    channel = grpc.insecure_channel(server.grpc_url.removeprefix("grpc://"))
    with channel, pytest.raises(grpc.RpcError) as caught:
        next(InferenceStub(channel).Propagate(pb.PropagateRequest(model="lj", n_steps=1)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected a start or a checkpoint" in caught.value.details()
