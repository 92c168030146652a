import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.clients.proxy import CountingProxy
from tests.clients.serving import ARGON, port_of
from tests.dynamics.counting import CountingService
from tests.systems import crystal, molecule
from twinforce import (
    AsyncClient,
    Client,
    InvalidSystemError,
    System,
    UnsupportedElementError,
    UnsupportedOutputError,
)


@pytest.fixture
def client(url):
    with Client(url) as client:
        yield client


@pytest.fixture
def stream(client):
    with client.stream() as stream:
        yield stream


@pytest.fixture
def proxy(url):
    proxy = CountingProxy(port_of(url))
    yield proxy
    proxy.close()


def through(proxy, url):
    return f"{url.partition(':')[0]}://127.0.0.1:{proxy.port}"


def moved(system, seed):
    shift = np.random.default_rng(seed).normal(scale=0.05, size=(len(system), 3))
    return system.moved(system.positions + shift)


def assert_same(prediction, expected):
    assert prediction.energy == pytest.approx(expected.energy, abs=1e-10)
    np.testing.assert_allclose(
        prediction.conservative_forces, expected.conservative_forces, atol=1e-10
    )


def test_stream_predictions_equal_single_predictions(client, stream):
    system = crystal()
    for step in range(10):
        system = moved(system, step)
        assert_same(stream.predict(system), client.predict(system))


def test_outputs_may_change_from_step_to_step(stream):
    system = molecule()
    assert stream.predict(system).conservative_forces is not None
    hybrid = stream.predict(system, "hybrid")
    assert hybrid.direct_forces is not None
    only = stream.predict(system, ["direct_forces"])
    assert only.energy is None
    again = stream.predict(system)
    assert again.energy == pytest.approx(hybrid.energy)
    assert again.direct_forces is None


def test_every_change_of_a_system_is_sent(client, stream):
    first = crystal()
    positions, numbers = first.positions, first.atomic_numbers
    for system in [
        first,
        first.moved(positions, 1.05 * first.cell),
        System(numbers, positions, first.cell, pbc=[True, True, False]),
        System(numbers, positions),
        molecule(3),
        first,
    ]:
        assert_same(stream.predict(system), client.predict(system))


def test_a_cell_that_is_changed_in_place_is_sent(client, stream):
    numbers, positions = np.full(8, ARGON, dtype=np.int32), np.array(crystal().positions)
    cell = np.array(crystal().cell)
    stream.predict(System(numbers, positions, cell, pbc=True))
    cell *= 1.05
    system = System(numbers, positions, cell, pbc=True)
    assert_same(stream.predict(system), client.predict(system))


def test_a_bad_step_fails_alone(choosy_url):
    good = molecule()
    with Client(choosy_url) as client, client.stream() as stream:
        stream.predict(good)
        with pytest.raises(UnsupportedElementError, match=r"^atomic_numbers: "):
            stream.predict(molecule(element=54))
        assert_same(stream.predict(moved(good, 1)), client.predict(moved(good, 1)))
        with pytest.raises(UnsupportedOutputError, match=r"^cell: "):
            stream.predict(good, ["conservative_stress"])
        with pytest.raises(InvalidSystemError, match=r"^positions: "):
            stream.predict(good.moved(np.full((3, 3), np.inf)))
        assert_same(stream.predict(moved(good, 2)), client.predict(moved(good, 2)))


def test_threads_that_share_a_stream_take_turns(client, stream):
    systems = [molecule(n) for n in range(1, 9)] * 3
    expected = client.predict(systems)
    with ThreadPoolExecutor(6) as threads:
        for prediction, alone in zip(threads.map(stream.predict, systems), expected, strict=True):
            assert_same(prediction, alone)


def test_a_closed_stream_can_be_used_again(client):
    stream = client.stream()
    with stream:
        expected = stream.predict(molecule())
    assert_same(stream.predict(molecule()), expected)
    stream.close()
    stream.close()


def test_only_positions_are_sent_after_the_first_system(server):
    n_atoms = 1000
    system = molecule(n_atoms)
    with (
        CountingService(server.grpc_url) as counting,
        Client(counting.url) as client,
        client.stream("lj") as stream,
    ):
        for step in range(6):
            stream.predict(moved(system, step), ["energy"])
    sent = counting.sizes
    assert len(sent) == 6
    assert sent[0] > (3 * 8 + 4) * n_atoms
    for n_bytes in sent[1:]:
        assert 3 * 8 * n_atoms < n_bytes < 3 * 8 * n_atoms + 100


def test_a_cell_is_sent_only_if_it_changed(server):
    system = crystal()
    with (
        CountingService(server.grpc_url) as counting,
        Client(counting.url) as client,
        client.stream("lj") as stream,
    ):
        for scale in (1.0, 1.0, 1.0, 1.01, 1.01, 1.02):
            stream.predict(system.moved(system.positions, scale * system.cell), ["energy"])
    sent = counting.sizes
    assert len(sent) == 6
    assert min(sent[3], sent[5]) >= max(sent[2], sent[4]) + 72


def test_a_stream_reconnects_and_sends_the_whole_system(client, url, proxy):
    system = crystal()
    with Client(through(proxy, url)) as other, other.stream("lj") as stream:
        for step in range(4):
            system = moved(system, step)
            assert_same(stream.predict(system), client.predict(system))
            proxy.cut()
    assert proxy.n_connections >= 4


def test_asyncio_walkers_run_concurrently(url):
    async def run_walker(client, seed):
        system = crystal(seed=seed)
        async with client.stream() as stream:
            predictions = []
            for step in range(5):
                system = moved(system, step)
                predictions.append((system, await stream.predict(system)))
        return predictions

    async def run_walkers():
        async with AsyncClient(url) as client:
            walkers = await asyncio.gather(*(run_walker(client, seed) for seed in range(6)))
            for system, prediction in (step for steps in walkers for step in steps):
                assert_same(prediction, await client.predict(system))

    asyncio.run(run_walkers())


def test_a_canceled_asyncio_step_does_not_shift_later_replies(url, proxy):
    async def cancel_a_step():
        async with AsyncClient(through(proxy, url)) as client, client.stream("lj") as stream:
            await stream.predict(molecule(2))
            proxy.hold()
            n_before = proxy.n_bytes_sent
            step = asyncio.create_task(stream.predict(molecule(200)))
            while proxy.n_bytes_sent < n_before + 200 * 3 * 8:
                await asyncio.sleep(0.001)
            step.cancel()
            await asyncio.wait([step])
            assert step.cancelled()
            proxy.resume()
            prediction = await stream.predict(molecule(3))
            assert prediction.conservative_forces.shape == (3, 3)
            assert_same(prediction, await client.predict(molecule(3)))

    asyncio.run(cancel_a_step())


def test_an_asyncio_walker_survives_a_lost_connection(url, proxy):
    async def run_walker():
        async with AsyncClient(through(proxy, url)) as client, client.stream("lj") as stream:
            system = crystal()
            for step in range(4):
                system = moved(system, step)
                await stream.predict(system)
                proxy.cut()

    asyncio.run(run_walker())
    assert proxy.n_connections >= 4
