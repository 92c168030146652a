"""A client of several replicas: walkers are spread, and none of them notices that one goes."""

import asyncio
import random
from contextlib import ExitStack
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.clients.proxy import CountingProxy
from tests.clients.serving import port_of, serve
from tests.ports import free_port
from tests.systems import molecule
from twinforce import AsyncClient, Client, Integrator, Start, UnavailableError
from twinforce._transports.replication.replicas import Replicas
from twinforce._transports.transport import MisdirectedError
from twinforce._transports.url import parse_address
from twinforce_proto import OverloadedError

SCHEMES = {"grpc": "grpc", "rest": "http"}
# An idle connection of gRPC sends a few pings; three steps of a walker send more than this.
BYTES_OF_PINGS = 200


class Trio:
    """Three replicas, each behind a proxy that counts and that can be cut off."""

    def __init__(self, stack, servers, transport):
        urls = [getattr(each, f"{transport}_url") for each in servers]
        self.proxies = [CountingProxy(port_of(url)) for url in urls]
        for proxy in self.proxies:
            stack.callback(proxy.close)
        hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.proxies)
        self.url = f"{SCHEMES[transport]}://{hosts}"

    @property
    def used(self):
        """Numbers of the replicas that were asked anything, besides pings, since the last look."""
        sent = [
            proxy.n_bytes_sent - seen for proxy, seen in zip(self.proxies, self._seen, strict=True)
        ]
        return {number for number, n_bytes in enumerate(sent) if n_bytes > BYTES_OF_PINGS}

    def look(self):
        self._seen = [proxy.n_bytes_sent for proxy in self.proxies]

    def cut_off(self, number):
        self.proxies[number].close()


@pytest.fixture(scope="module")
def servers():
    with ExitStack() as stack:
        yield [stack.enter_context(serve()) for _ in range(3)]


@pytest.fixture(params=SCHEMES)
def trio(servers, request):
    with ExitStack() as stack:
        found = Trio(stack, servers, request.param)
        found.look()
        yield found


def start():
    integrator = Integrator(force_kind="conservative")
    return Start(molecule(), np.zeros((3, 3)), integrator, random=np.random.default_rng(0))


def test_walkers_are_spread_and_stay(trio):
    with Client(trio.url, timeout=60) as client:
        client.models()
        walkers = [client.stream("lj") for _ in range(3)]
        for walker in walkers:
            walker.predict(molecule())
        homes = []
        for walker in walkers:
            trio.look()
            for _ in range(3):
                walker.predict(molecule())
            homes.append(trio.used)
        assert sorted(homes, key=min) == [{0}, {1}, {2}]


def test_walkers_of_a_replica_that_goes_move_to_the_others(trio):
    with Client(trio.url, timeout=60) as client:
        expected = client.predict(molecule(), model="lj").energy
        walkers = [client.stream("lj") for _ in range(6)]
        for walker in walkers:
            walker.predict(molecule())
        trio.cut_off(1)
        for walker in walkers:
            assert walker.predict(molecule()).energy == expected
        trio.look()
        for walker in walkers:
            assert walker.predict(molecule()).energy == expected
        assert trio.used == {0, 2}
        assert client.predict(molecule(), model="lj").energy == expected


def test_a_run_goes_on_with_another_replica(trio):
    with Client(trio.url, timeout=60) as client:
        expected = [each.positions for each in client.propagate(start(), 40, 10, model="lj")]
        trio.look()
        run = client.propagate(start(), 40, 10, model="lj")
        positions = [next(run).positions]
        (home,) = trio.used
        trio.cut_off(home)
        positions += [each.positions for each in run]
        np.testing.assert_array_equal(positions, expected)


def test_an_asyncio_walker_moves(trio):
    async def walk():
        async with AsyncClient(trio.url, timeout=60) as client:
            first = await client.predict(molecule(), model="lj")
            walkers = [client.stream("lj") for _ in range(6)]
            for walker in walkers:
                await walker.predict(molecule())
            trio.cut_off(0)
            trio.cut_off(2)
            found = [(await walker.predict(molecule())).energy for walker in walkers]
            assert found == [first.energy] * 6
            run = client.propagate(start(), 4, 2, model="lj")
            assert len([each async for each in run]) == 3

    asyncio.run(walk())


def test_a_wrong_address_beside_a_right_one_does_no_harm():
    with serve() as server:
        hosts = f"no-such-host.invalid:1,127.0.0.1:{urlsplit(server.grpc_url).port}"
        with Client(f"grpc://{hosts}", timeout=60) as client:
            for _ in range(4):
                assert client.stream("lj").predict(molecule()).energy < 0
                assert client.predict(molecule(), model="lj").energy < 0


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_replicas_that_are_all_away_are_waited_for_as_one_is(scheme):
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
    with Client(f"{scheme}://{hosts}", max_retries=3) as client, pytest.raises(UnavailableError):
        client.models()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grpc://a:1,b", "grpc://a:1,b:8001"),
        ("https://a,[::1]:2,a:443/x/", "https://a:443,[::1]:2/x"),
        ("http://a", "http://a:80"),
    ],
)
def test_an_address_may_name_several_replicas(text, expected):
    assert str(parse_address(text)) == expected
    assert parse_address(expected) == parse_address(text)


@pytest.mark.parametrize(
    "text", ["grpc://a,,b", "grpc://,a", "grpc://a,b:0", "grpc://a,b/x", "a,b"]
)
def test_an_address_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="expected a url such as"):
        parse_address(text)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def replicas(n):
    clock = Clock()
    return Replicas([object] * n, clock), clock


def fail(found, replica, error):
    with pytest.raises(type(error)) as caught, found.noting(replica):
        raise error
    return caught.value


def test_one_of_the_replicas_with_the_fewest_walkers_is_chosen_at_random():
    random.seed(0)
    found, _ = replicas(3)
    assert {id(found.choose()) for _ in range(100)} == {id(each) for each in found.all}
    walkers = [object.__new__(Clock) for _ in range(3)]
    for walker in walkers:
        found.choose().walkers.add(walker)
    assert [len(each.walkers) for each in found.all] == [1, 1, 1]
    del walker, walkers[1:]  # those that are gone no longer count
    assert sorted(len(each.walkers) for each in found.all) == [0, 0, 1]


def test_a_replica_that_failed_is_left_out_twice_as_long_each_time():
    found, clock = replicas(2)
    bad, good = found.all
    for backoff in (0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0):
        fail(found, bad, UnavailableError("gone"))
        clock.now += 0.99 * backoff
        assert {found.choose() for _ in range(30)} == {good}
        clock.now += 0.02 * backoff
        assert {found.choose() for _ in range(30)} == {bad, good}
    with found.noting(bad):
        pass
    fail(found, bad, UnavailableError("gone"))
    clock.now += 0.26
    assert {found.choose() for _ in range(30)} == {bad, good}


def test_if_all_have_failed_the_one_that_failed_first_is_asked():
    found, clock = replicas(2)
    fail(found, found.all[1], UnavailableError("gone"))
    clock.now += 0.1
    fail(found, found.all[0], UnavailableError("gone"))
    assert found.choose() is found.all[1]


@pytest.mark.parametrize("kind", [OverloadedError, UnavailableError])
def test_a_replica_that_asks_for_time_is_waited_for_only_if_there_is_no_other(kind):
    found, clock = replicas(2)
    busy, other = found.all
    assert fail(found, busy, kind("not now", retry_after=9.0)).retry_after == 0.0
    clock.now += 8.9  # longer than a replica is left out that does not say for how long
    assert {found.choose() for _ in range(30)} == {other}
    assert fail(found, other, kind("not now", retry_after=9.0)).retry_after == 9.0
    clock.now += 0.2
    assert {found.choose() for _ in range(30)} == {busy}


def test_no_connection_is_made_before_it_is_used():
    made = []
    found = Replicas([lambda: made.append("first") or "a", lambda: made.append("second") or "b"])
    assert [each.opened for each in found.all] == [None, None]
    assert (found.all[1].connection, found.all[1].connection) == ("b", "b")
    assert made == ["second"]


def test_addresses_are_at_fault_if_all_of_them_are():
    found, _ = replicas(2)
    first = fail(found, found.all[0], UnavailableError("away"))
    assert not isinstance(first, MisdirectedError)
    with pytest.raises(UnavailableError) as caught, found.noting(found.all[0]):
        raise MisdirectedError("no such host")
    assert not isinstance(caught.value, MisdirectedError)
    with pytest.raises(MisdirectedError), found.noting(found.all[1]):
        raise MisdirectedError("no such host")
