"""New walkers and single calls go where less is waiting, as far as that is known."""

import asyncio
import random
import socket
import threading
from collections import Counter

import pytest

from tests.clients.scarce_threads import ScarceThreads
from tests.ports import free_port
from tests.waiting import wait_until
from twinforce._transports.replication.balance import Load, Standing, choose
from twinforce._transports.replication.connections import (
    AsyncReplicatedConnection,
    ReplicatedConnection,
)
from twinforce._transports.replication.replicas import Replicas
from twinforce._transports.transport import Call
from twinforce._transports.url import parse_address
from twinforce_proto import DeadlineExceededError, UnavailableError
from twinforce_proto.v1 import inference_pb2 as pb

N_REPLICAS, N_WALKERS = 100, 1000


def fullest(choose_among):
    """Return the walkers of the fullest replica, after all have chosen one after another."""
    counts = [0] * N_REPLICAS
    for _ in range(N_WALKERS):
        counts[choose_among(counts)] += 1
    return max(counts)


@pytest.mark.parametrize("seed", range(5))
def test_no_replica_is_much_fuller_than_the_mean_if_loads_are_known(seed):
    draw = random.Random(seed)
    mean = N_WALKERS / N_REPLICAS

    def informed(counts):
        return choose([Standing(0, float(each)) for each in counts], draw)

    def ignorant(_):
        return choose([Standing(0, None)] * N_REPLICAS, draw)

    assert fullest(informed) <= mean + 3
    assert fullest(ignorant) >= mean + 6


def test_walkers_that_start_together_do_not_all_choose_the_emptiest():
    draw = random.Random(0)
    standings = [Standing(0, 0.0), *[Standing(0, 100.0)] * 9]
    chosen = Counter(choose(standings, draw) for _ in range(10_000))
    assert chosen[0] == pytest.approx(10_000 * 2 / 10, rel=0.1)


def test_a_client_spreads_its_own_walkers_while_it_knows_too_little():
    draw = random.Random(0)
    standings = [Standing(1, 0.0), Standing(0, 900.0), Standing(0, None), Standing(2, None)]
    assert {choose(standings, draw) for _ in range(100)} == {1, 2}


def test_equal_loads_are_told_apart_by_the_walkers_of_this_client():
    draw = random.Random(0)
    assert {choose([Standing(1, 5.0), Standing(0, 5.0)], draw) for _ in range(100)} == {1}
    assert {choose([Standing(0, 5.0), Standing(0, 5.0)], draw) for _ in range(100)} == {0, 1}


def test_a_load_counts_what_was_sent_since_and_is_forgotten_after_a_while():
    load = Load(n_atoms=100, atoms_per_system=30.0, reported_at=50.0)
    assert load.at(51.0) == 100.0
    load.n_placed += 2
    assert load.at(59.0) == 160.0
    assert load.at(61.0) is None


class Host:
    """A replica that answers everything, with timings, or with an error.

    Attributes:
        n_waiting: Atoms in its queue.
        n_calls: Calls that it has answered.
        error: Error that it answers with, if any.
        stream_error: Error of opening a stream to it, if any.
    """

    def __init__(self):
        self.n_waiting = self.n_calls = 0
        self.error = self.stream_error = None

    def answer(self):
        self.n_calls += 1
        if self.error is not None:
            raise self.error
        timings = pb.Timings(batch_n_systems=1, batch_n_atoms=10, queue_n_atoms=self.n_waiting)
        return pb.PredictReply(timings=timings)


class Connected:
    """A connection to such a replica; its streams are alike, and may fail to open."""

    def __init__(self, host):
        self._host = host

    def send(self, _):
        return self._host.answer()

    def stream(self):
        if self._host.stream_error is not None:
            raise self._host.stream_error
        return self

    def close(self):
        """Do nothing."""


class AsyncConnected(Connected):
    """The asyncio counterpart of `Connected`."""

    async def send(self, _):
        return self._host.answer()

    async def close(self):
        """Do nothing."""


URLS = parse_address("grpc://a:1,b:1").urls
CALL = Call("Predict", pb.PredictRequest(), None)
STEP = Call("PredictStream", pb.StreamRequest(model="lj", system=pb.System()), None)


@pytest.fixture
def hosts():
    return {url: Host() for url in URLS}


def test_walkers_and_calls_go_to_the_replica_where_less_waits(hosts):
    busy, idle = hosts.values()
    busy.n_waiting = 5000
    connection = ReplicatedConnection(URLS, lambda url: Connected(hosts[url]))
    while not (busy.n_calls and idle.n_calls):
        connection.send(CALL)
    walkers = [connection.stream() for _ in range(10)]
    before = busy.n_calls
    for walker in walkers:
        walker.send(STEP)
        connection.send(CALL)
    assert busy.n_calls == before
    busy.n_waiting, idle.n_waiting = 0, 5000
    for walker in walkers:
        walker.send(STEP)  # all stay where they are
    assert busy.n_calls == before


def test_asyncio_walkers_and_calls_go_to_the_replica_where_less_waits(hosts):
    busy, idle = hosts.values()
    busy.n_waiting = 5000

    async def ask():
        connection = AsyncReplicatedConnection(URLS, lambda url: AsyncConnected(hosts[url]))
        while not (busy.n_calls and idle.n_calls):
            await connection.send(CALL)
        before = busy.n_calls
        for walker in [connection.stream() for _ in range(10)]:
            await walker.send(STEP)
            await connection.send(CALL)
        assert busy.n_calls == before

    asyncio.run(ask())


@pytest.mark.parametrize("error", [UnavailableError("away"), DeadlineExceededError("too late")])
def test_a_walker_leaves_a_replica_that_does_not_answer(hosts, error):
    connection = ReplicatedConnection(URLS, lambda url: Connected(hosts[url]))
    walker = connection.stream()
    walker.send(STEP)
    (home,) = [each for each in hosts.values() if each.n_calls]
    (other,) = [each for each in hosts.values() if each is not home]
    home.error = error
    with pytest.raises(type(error)):
        walker.send(STEP)
    home.error = None
    for _ in range(3):
        walker.send(STEP)
    assert (home.n_calls, other.n_calls) == (2, 3)


@pytest.fixture
def long_pauses(monkeypatch):
    """Let no replica that has failed be tried again during a test."""
    monkeypatch.setattr("twinforce._transports.replication.replica._SHORTEST_BACKOFF_S", 1e6)
    monkeypatch.setattr("twinforce._transports.replication.replica._LONGEST_BACKOFF_S", 1e6)


@pytest.mark.usefixtures("long_pauses")
def test_walkers_leave_out_a_replica_whose_streams_fail_to_open(hosts):
    away, other = hosts.values()
    away.stream_error = UnavailableError("no stream")
    connection = ReplicatedConnection(URLS, lambda url: Connected(hosts[url]))
    n_failures = 0
    for _ in range(50):
        walker = connection.stream()
        try:
            walker.send(STEP)
        except UnavailableError:
            n_failures += 1
            walker.send(STEP)
    assert n_failures <= 1
    assert (away.n_calls, other.n_calls) == (0, 50)


@pytest.mark.usefixtures("long_pauses")
def test_asyncio_walkers_leave_out_a_replica_whose_streams_fail_to_open(hosts):
    away, other = hosts.values()
    away.stream_error = UnavailableError("no stream")

    async def walk():
        connection = AsyncReplicatedConnection(URLS, lambda url: AsyncConnected(hosts[url]))
        n_failures = 0
        for _ in range(50):
            walker = connection.stream()
            try:
                await walker.send(STEP)
            except UnavailableError:
                n_failures += 1
                await walker.send(STEP)
        assert n_failures <= 1

    asyncio.run(walk())
    assert (away.n_calls, other.n_calls) == (0, 50)


@pytest.mark.parametrize("error", [UnavailableError("no stream"), OSError("no such file")])
def test_a_walker_whose_stream_fails_to_open_does_not_count(error):
    replicas, walker = Replicas([object]), Host()

    def open_stream():
        with replicas.assigning(walker) as replica:
            assert walker in replica.walkers
            raise error

    with pytest.raises(type(error), match=str(error)):
        open_stream()
    assert not replicas.all[0].walkers


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_replica_that_failed_is_tried_by_one_call_at_a_time():
    clock = Clock()
    replicas = Replicas([object, object], clock)
    bad = replicas.all[0]
    with pytest.raises(UnavailableError), replicas.noting(bad):
        raise UnavailableError("away")
    clock.now += 0.3
    chosen = Counter(replicas.choose() is bad for _ in range(50))
    assert chosen == {True: 1, False: 49}
    with replicas.noting(bad):
        pass
    assert Counter(replicas.choose() is bad for _ in range(50))[True] > 5


def test_a_replica_whose_port_is_closed_is_left_out_until_it_opens():
    clock, port = Clock(), free_port()
    urls = parse_address(f"grpc://127.0.0.1:{port},127.0.0.1:1").urls
    replicas = Replicas(clock=clock)
    replicas.update(urls, lambda _: object())
    away = replicas.all[0]
    with pytest.raises(UnavailableError), replicas.noting(away):
        raise UnavailableError("away")
    for _ in range(50):
        clock.now += 10.0
        assert replicas.choose() is not away
    with socket.create_server(("127.0.0.1", port)):
        wait_until(lambda: replicas.choose() is away)


def test_a_port_is_tried_once_there_are_threads_again(monkeypatch):
    clock, threads = Clock(), ScarceThreads(2)
    monkeypatch.setattr("twinforce._transports.replication.replica._thread", threads)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        replicas = Replicas(clock=clock)
        urls = parse_address(f"grpc://127.0.0.1:{port},127.0.0.1:1").urls
        replicas.update(urls, lambda _: object())
        away = replicas.all[0]
        with pytest.raises(UnavailableError), replicas.noting(away):
            raise UnavailableError("away")
        clock.now += 10.0
        assert [replicas.choose() is away for _ in range(2)] == [False, False]
        assert threads.n_refused == 2
        wait_until(lambda: replicas.choose() is away)


def test_former_replicas_keep_their_walkers():
    clock = Clock()
    replicas = Replicas(clock=clock)
    one, two = parse_address("grpc://a:1").urls, parse_address("grpc://b:1").urls
    replicas.update(one, lambda url: str(url))
    walker = Host()
    (home,) = replicas.all
    home.walkers.add(walker)
    replicas.update(two, lambda url: str(url))
    assert [each.connection for each in replicas.all] == ["grpc://b:1"]
    assert replicas.take_unused() == []
    assert home in replicas.all_and_former()
    del walker
    assert replicas.take_unused() == [home]
    assert replicas.all_and_former() == list(replicas.all)


def test_a_replica_that_comes_back_while_it_has_walkers_is_the_same():
    replicas, walker = Replicas(), Host()
    one, two = parse_address("grpc://a:1").urls, parse_address("grpc://b:1").urls
    replicas.update(one, str)
    (home,) = replicas.all
    home.walkers.add(walker)
    replicas.update(two, str)
    replicas.update(list(one), str)
    assert replicas.all == (home,)


class HeldUrls(tuple):
    """URLs whose first reader is held until it is let go."""

    def __new__(cls, urls):
        made = super().__new__(cls, urls)
        made.is_held, made.may_go = threading.Event(), threading.Event()
        return made

    def __iter__(self):
        if not self.is_held.is_set():
            self.is_held.set()
            assert self.may_go.wait(60.0)
        return super().__iter__()


def test_two_threads_that_meet_new_replicas_use_the_same_ones():
    replicas, urls = Replicas(), HeldUrls(URLS)
    chosen = []

    def use():
        replicas.update(urls, str)
        chosen.append({id(replicas.choose()) for _ in range(100)})

    slow = threading.Thread(target=use)
    slow.start()
    assert urls.is_held.wait(60.0)
    try:
        use()
    finally:
        urls.may_go.set()
        slow.join()
    assert chosen == [{id(each) for each in replicas.all}] * 2
    assert len(replicas.all_and_former()) == 2
