"""Programs that fork, for `test_forks`: python -m tests.clients.forking NAME URL."""

import asyncio
import atexit
import contextlib
import gc
import multiprocessing
import os
import sys
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor
from urllib.parse import urlsplit

import numpy as np
from ase import Atoms

from tests.clients.proxy import CountingProxy
from tests.waiting import wait_until
from twinforce import AsyncClient, Client, Integrator, Start, System
from twinforce.ase import TwinForceCalculator

# The service and its libraries are not loaded, so that the children end quickly.
ARGON = 18


def pair(distance):
    """Return two atoms of argon at this distance."""
    return System([ARGON, ARGON], [[0.0, 0.0, 0.0], [0.0, 0.0, distance]])


class Truth:
    """The energies that the service returns to a process that never forked anything."""

    def __init__(self, url):
        self._energies = {}
        with Client(url) as client:
            for distance in np.linspace(3.5, 4.5, 5):
                self._energies[distance] = client.predict(pair(distance), "energy").energy

    def check(self, predict):
        """Check what a function says of every pair."""
        for distance, energy in self._energies.items():
            np.testing.assert_allclose(predict(pair(distance)).energy, energy, rtol=1e-10)

    async def acheck(self, predict):
        for distance, energy in self._energies.items():
            prediction = await predict(pair(distance))
            np.testing.assert_allclose(prediction.energy, energy, rtol=1e-10)


def in_a_child(work, *arguments):
    """Start a child by fork that does some work and leaves as a program does."""
    if pid := os.fork():
        return pid
    work(*arguments)
    sys.exit(0)


def join(*pids):
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0


def everything(client, stream, truth):
    truth.check(client.predict)
    truth.check(stream.predict)


def children_use_what_their_parent_uses(url):
    """Children, and children of children, together with their parent and its threads."""
    truth = Truth(url)
    client = Client(url)
    stream = client.stream()
    everything(client, stream, truth)
    others = [threading.Thread(target=everything, args=(client, stream, truth)) for _ in range(2)]
    for other in others:
        other.start()

    def work(depth):
        pids = [in_a_child(work, depth - 1) for _ in range(2)] if depth else []
        everything(client, stream, truth)
        stream.close()
        truth.check(stream.predict)
        join(*pids)
        client.close()

    pids = [in_a_child(work, 1) for _ in range(2)]
    everything(client, stream, truth)
    join(*pids)
    for other in others:
        other.join()
    everything(client, stream, truth)


def children_that_only_exit(url):
    """Children that use nothing, collect everything, or close everything."""
    truth = Truth(url)
    client = Client(url)
    stream = client.stream()
    truth.check(stream.predict)
    exit_children(truth, stream, [client, stream])
    everything(client, stream, truth)


def children_that_only_exit_beside_calls(url):
    """A thread goes on with its calls, and updates of a relaxation arrive."""
    truth = Truth(url)
    client = Client(url)
    stream = client.stream()
    snapshots = client.relax(pair(3.6), fmax=1e-9, interval=1)
    next(snapshots)
    stop = threading.Event()

    def go_on():
        with client.stream() as other:
            while not stop.wait(0.005):
                truth.check(other.predict)

    thread = threading.Thread(target=go_on)
    thread.start()
    truth.check(stream.predict)
    try:
        exit_children(truth, stream, [client, stream, snapshots])
    finally:
        stop.set()
        thread.join()
    assert len(list(snapshots)) > 1
    everything(client, stream, truth)


def exit_children(truth, stream, everything_open):
    """Let children exit at once, drop, collect or close everything, and use the stream between."""

    def close():
        for each in reversed(everything_open):
            each.close()

    for work in (lambda: None, everything_open.clear, gc.collect, close):
        join(*(in_a_child(work) for _ in range(2)))
        truth.check(stream.predict)


def many_forks_while_threads_call(url):
    """Most forks meet threads inside of the transport, which then is told nothing of the fork."""
    truth = Truth(url)
    client = Client(url)
    stop = threading.Event()

    def go_on(kind):
        with client.stream() as other:
            while not stop.wait(0.001):
                truth.check(other.predict if kind else client.predict)

    threads = [threading.Thread(target=go_on, args=(each % 2,)) for each in range(4)]
    for thread in threads:
        thread.start()
    stream = client.stream()
    try:
        for _ in range(6):
            join(in_a_child(everything, client, stream, truth), in_a_child(lambda: None))
    finally:
        stop.set()
    for thread in threads:
        thread.join()


def forks_beside_calls_warn(url):
    """Of calls in other threads and of open runs, but not of streams that are open."""
    truth = Truth(url)
    client = Client(url)
    stream = client.stream()
    truth.check(stream.predict)
    assert warnings_of_a_fork() == []

    start = Start(pair(3.7), np.zeros((2, 3)), Integrator(force_kind="conservative"))
    run = client.propagate(start, 200, 10)
    next(run)
    (warning,) = warnings_of_a_fork()
    assert "0 calls and 1 open runs over gRPC" in warning
    run.close()
    assert warnings_of_a_fork() == []

    proxy = CountingProxy(urlsplit(url).port)
    slow = Client(f"grpc://127.0.0.1:{proxy.port}")
    slow.models()
    proxy.hold()
    n_bytes = proxy.n_bytes_sent
    threads = [
        threading.Thread(target=truth.check, args=(predict,))
        for predict in (slow.stream("lj").predict, slow.predict)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: proxy.n_bytes_sent > n_bytes)
    (warning,) = warnings_of_a_fork()
    assert "calls and 0 open runs over gRPC" in warning
    proxy.resume()
    for thread in threads:
        thread.join()
    assert warnings_of_a_fork() == []


def warnings_of_a_fork():
    """Return the messages of the warnings at a fork whose child ends at once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        pid = os.fork()
        if not pid:
            os._exit(0)
    os.waitpid(pid, 0)
    return [str(each.message) for each in caught if each.category is RuntimeWarning]


def exit_functions_use_what_the_parent_used(url):
    """They were registered before the process that runs them had connections."""
    truth = Truth(url)
    client = Client(url)
    stream = client.stream()
    atexit.register(lambda: everything(client, stream, truth))
    everything(client, stream, truth)
    for work in (lambda: None, lambda: everything(client, stream, truth)):
        join(in_a_child(work))


def idle_streams_have_no_thread_at_a_fork(url):
    """A child would follow what the thread left behind."""
    with Client(url) as client, client.stream() as stream:
        energy = stream.predict(pair(3.7)).energy
        assert functions_that_run("grpc._channel")
        join(in_a_child(lambda: None))
        assert not functions_that_run("grpc._channel")
        assert stream.predict(pair(3.7)).energy == energy


def functions_that_run(module):
    """Return the names of the functions of a module that threads of Python are in."""
    names = []
    for frame in sys._current_frames().values():
        while frame is not None:
            if frame.f_globals.get("__name__") == module:
                names.append(frame.f_code.co_name)
            frame = frame.f_back
    return names


def an_open_run_goes_on_in_both(url):
    start = Start(pair(3.7), np.zeros((2, 3)), Integrator(force_kind="conservative"))
    with Client(url) as client:
        expected = [each.positions for each in client.propagate(start, 200, 10)]
        run = client.propagate(start, 200, 10)
        first = [next(run).positions for _ in range(5)]

        def check():
            positions = [*first, *(each.positions for each in run)]
            np.testing.assert_array_equal(positions, expected)

        join(*(in_a_child(check) for _ in range(2)))
        check()


def a_fork_while_a_thread_waits_for_a_reply(url):
    """The thread holds the lock of the stream, and is inside of gRPC or of a pool."""
    truth = Truth(url)
    proxy = CountingProxy(urlsplit(url).port)
    client = Client(f"{url.partition(':')[0]}://127.0.0.1:{proxy.port}")
    stream = client.stream("lj")
    truth.check(stream.predict)
    proxy.hold()
    n_bytes = proxy.n_bytes_sent
    threads = [
        threading.Thread(target=truth.check, args=(predict,))
        for predict in (stream.predict, client.predict)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: proxy.n_bytes_sent > n_bytes)
    n_connections = proxy.n_connections
    pid = in_a_child(everything, client, stream, truth)
    wait_until(lambda: proxy.n_connections > n_connections)
    proxy.resume()
    join(pid)
    for thread in threads:
        thread.join()
    everything(client, stream, truth)
    client.close()
    proxy.close()


def a_calculator_and_pools(url):
    """An ASE calculator in the children of `multiprocessing` and of executors."""
    atoms = Atoms(["Ar", "Ar"], positions=pair(3.8).positions)
    atoms.calc = TwinForceCalculator(url)
    atoms.get_potential_energy()
    atoms.rattle(0.01)
    expected = atoms.get_potential_energy()
    for method in ("fork", "forkserver"):
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context) as processes:
            energies = list(processes.map(energy_of, [atoms] * 4))
        np.testing.assert_allclose(energies, expected, rtol=1e-10)
    child = multiprocessing.get_context("fork").Process(target=check_energy, args=(atoms, expected))
    child.start()
    child.join()
    assert child.exitcode == 0
    atoms.rattle(0.01)
    assert atoms.get_potential_energy() != expected


def energy_of(atoms):
    atoms.rattle(0.0)
    return atoms.get_potential_energy()


def check_energy(atoms, expected):
    """Check the energy by a calculator that was inherited rather than pickled."""
    atoms.calc.reset()
    np.testing.assert_allclose(atoms.get_potential_energy(), expected, rtol=1e-10)


def asyncio_before_the_fork(url):
    truth = Truth(url)
    client = AsyncClient(url)
    stream = client.stream()

    async def use():
        await truth.acheck(client.predict)
        await truth.acheck(stream.predict)

    def work():
        asyncio.run(use())
        asyncio.run(client.close())

    asyncio.run(use())
    join(*(in_a_child(work) for _ in range(2)))
    asyncio.run(use())
    work()


def a_fork_inside_of_a_coroutine(url):
    """The child leaves the coroutine of its parent by an exception."""
    truth = Truth(url)

    def work():
        with Client(url) as client:
            everything(client, client.stream(), truth)
        client = AsyncClient(url)
        if url.startswith("http"):
            asyncio.run(truth.acheck(client.predict))
        else:
            with contextlib.suppress(RuntimeError):
                asyncio.run(client.models())
                raise AssertionError("expected an error that says what to do instead")
        os._exit(0)

    async def main():
        async with AsyncClient(url) as client, client.stream() as stream:
            await truth.acheck(stream.predict)
            join(in_a_child(work))
            await truth.acheck(stream.predict)
            await truth.acheck(client.predict)

    asyncio.run(main())


def grpc_does_not_support_forks(url):
    """The environment tells gRPC so."""
    with Client(url) as client:
        client.models()

        def work():
            with contextlib.suppress(RuntimeError):
                Client(url).models()
                raise AssertionError("expected an error that says what to do instead")

        join(in_a_child(work))
        client.models()


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
