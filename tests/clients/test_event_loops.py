"""An `AsyncClient` works in every event loop, one after another and at the same time."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.clients.test_client import connections_of_this_process
from tests.systems import molecule
from twinforce import AsyncClient, Client, Integrator, Start


@pytest.fixture
def client(url):
    return AsyncClient(url)


@pytest.fixture(autouse=True)
def nobody_complains(caplog):
    """Let what complains when it is collected do so in the test that made it."""
    yield
    gc.collect()
    assert not [each for each in caplog.records if each.name == "asyncio" and each.levelno > 20]


@pytest.fixture
def energies(url):
    """The energies of molecules of one to five atoms."""
    with Client(url) as client:
        return [each.energy for each in client.predict([molecule(n) for n in range(1, 6)])]


async def check(predict, energies):
    for n, energy in enumerate(energies, 1):
        assert (await predict(molecule(n))).energy == pytest.approx(energy, rel=1e-10)


def start():
    return Start(molecule(3), np.zeros((3, 3)), Integrator(force_kind="conservative"))


def test_a_client_is_used_in_one_loop_after_another(client, energies):
    stream = client.stream()

    async def use():
        await asyncio.gather(*(check(client.predict, energies) for _ in range(3)))
        await asyncio.gather(*(check(stream.predict, energies) for _ in range(3)))
        return [each.positions async for each in client.propagate(start(), 20, 5)]

    first, second, third = (asyncio.run(use()) for _ in range(3))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)
    asyncio.run(stream.close())
    asyncio.run(client.close())
    with pytest.raises(RuntimeError, match="is closed"):
        asyncio.run(use())


def test_a_client_is_closed_in_the_loop_that_used_it(url, energies):
    async def use():
        async with AsyncClient(url) as client, client.stream() as stream:
            await check(client.predict, energies)
            await check(stream.predict, energies)

    for _ in range(3):
        asyncio.run(use())


def test_a_client_that_is_never_closed_leaves_no_connection(client, energies):
    async def use():
        await check(client.predict, energies)
        await check(client.stream().predict, energies)
        return len(client._connections.items())

    before = len(list(connections_of_this_process()))
    assert [asyncio.run(use()) for _ in range(3)] == [1, 1, 1]
    wait_until(lambda: len(list(connections_of_this_process())) <= before)


def wait_until(condition):
    for _ in range(6000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError


def test_a_run_that_is_left_in_the_middle_ends_with_its_loop(client, energies):
    async def begin():
        run = client.relax(molecule(5), fmax=1e-9, interval=1)
        await anext(run)
        return run

    runs = [asyncio.run(begin()) for _ in range(3)]
    assert len(runs) == 3
    asyncio.run(check(client.predict, energies))


def test_loops_in_two_threads_share_a_client_and_a_stream(client, energies):
    stream = client.stream()
    together = threading.Barrier(2)

    async def use():
        together.wait(60)
        for _ in range(5):
            await check(client.predict, energies)
            await check(stream.predict, energies)
        together.wait(60)

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(asyncio.run, use()) for _ in range(2)]:
            done.result()
    asyncio.run(client.close())


def test_a_client_is_closed_while_another_loop_runs(client, energies):
    opened, closed = threading.Event(), threading.Event()

    async def use():
        await check(client.predict, energies)
        opened.set()
        await asyncio.to_thread(closed.wait)
        with pytest.raises(RuntimeError, match="is closed"):
            await client.models()

    async def close():
        await check(client.predict, energies)
        await client.close()

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(asyncio.run, use())
        opened.wait(60)
        asyncio.run(close())
        closed.set()
        done.result()


def test_loops_that_are_run_by_hand_and_an_iterator_that_changes_loops(client, energies):
    stream = client.stream()
    with Client(client.url) as blocking:
        expected = [each.positions for each in blocking.propagate(start(), 80, 5)]
    run = client.propagate(start(), 80, 5)
    loops = [asyncio.new_event_loop() for _ in range(2)]
    positions = []
    for loop in [*loops, *loops, loops[1]]:
        loop.run_until_complete(check(client.predict, energies))
        loop.run_until_complete(check(stream.predict, energies))
        positions += [loop.run_until_complete(anext(run)).positions for _ in range(2)]
    np.testing.assert_array_equal(positions, expected[:10])
    for loop in loops:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    asyncio.run(check(client.predict, energies))


def test_a_canceled_call_leaves_a_usable_client(client, energies):
    stream = client.stream()

    async def use():
        for predict in (client.predict, stream.predict) * 5:
            call = asyncio.create_task(predict(molecule(200)))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            await check(predict, energies)

    for _ in range(3):
        asyncio.run(use())
