"""Walkers look at other replicas now and then, move where less is waiting, and notice nothing."""

import asyncio
from contextlib import ExitStack

import numpy as np
import pytest

from tests.clients.replication.test_balance import CALL, STEP, URLS, AsyncConnected, Connected, Host
from tests.clients.serving import serve
from tests.systems import crystal
from twinforce import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    InvalidSystemError,
    UnavailableError,
)
from twinforce._transports.replication.balance import is_worth_a_move
from twinforce._transports.replication.connections import (
    AsyncReplicatedConnection,
    ReplicatedConnection,
)
from twinforce._transports.replication.second_look import StepMemory
from twinforce._transports.transport import Call
from twinforce_proto.codec.stream import StreamDecoder, StreamEncoder
from twinforce_proto.v1 import inference_pb2 as pb

SCHEMES = {"grpc": "grpc", "rest": "http"}


@pytest.fixture
def looks_always(monkeypatch):
    monkeypatch.setattr("twinforce._transports.replication.second_look._INTERVAL_S", 0.0)


@pytest.fixture
def hosts():
    return {url: Host() for url in URLS}


def placed(connection, hosts):
    """Return a walker after its first step, its replica, and the other one."""
    walker = connection.stream()
    walker.send(STEP)
    home, other = sorted(hosts.values(), key=lambda host: -host.n_calls)
    assert (home.n_calls, other.n_calls) == (1, 0)
    return walker, home, other


@pytest.mark.usefixtures("looks_always")
def test_a_walker_stays_where_less_is_waiting(hosts):
    connection = ReplicatedConnection(URLS, lambda url: Connected(hosts[url]))
    walker, home, other = placed(connection, hosts)
    home.n_waiting = 1000
    walker.send(STEP)  # at the other one, as its own has not told its load since
    assert (home.n_calls, other.n_calls) == (1, 1)


def test_a_walker_moves_once_and_not_to_and_fro(hosts, monkeypatch):
    connection = ReplicatedConnection(URLS, lambda url: Connected(hosts[url]))
    for host in hosts.values():
        host.n_waiting = 1000
    walker, home, other = placed(connection, hosts)
    other.n_waiting = 100
    clock = [0.0]
    monkeypatch.setattr(walker._looks, "_clock", lambda: clock[0])
    walker._looks._plan()
    for _ in range(200):
        clock[0] += 30.0
        walker.send(STEP)
    # It has looked some time after the beginning, has moved, and has looked back now and then.
    # By then it takes a look after every 5 to 15 steps.
    assert other.n_calls > 140
    assert home.n_calls > 10


def test_loads_that_differ_little_are_no_reason_to_move():
    assert is_worth_a_move(own=1000.0, other=600.0)
    assert not is_worth_a_move(own=1000.0, other=800.0)
    assert not is_worth_a_move(own=1000.0, other=1000.0)


@pytest.mark.usefixtures("looks_always")
def test_a_look_at_a_replica_that_fails_is_not_noticed(hosts):
    connection = ReplicatedConnection(URLS, lambda url: Connected(hosts[url]))
    walker, home, other = placed(connection, hosts)
    other.error = UnavailableError("away")
    for _ in range(5):
        walker.send(STEP)
    assert home.n_calls == 6
    assert other.n_calls == 1  # it is left out afterwards


@pytest.mark.usefixtures("looks_always")
def test_a_look_at_a_replica_that_hangs_leaves_half_of_the_time(hosts, monkeypatch):
    connection = ReplicatedConnection(URLS, lambda url: Connected(hosts[url]))
    timeouts = []
    send = Connected.send

    def sending(self, call):
        timeouts.append(call.timeout)
        return send(self, call)

    monkeypatch.setattr(Connected, "send", sending)
    walker, home, other = placed(connection, hosts)
    other.error = DeadlineExceededError("no reply in time")
    assert walker.send(Call("PredictStream", STEP.message, 60.0)).timings.batch_n_atoms == 10
    assert (home.n_calls, other.n_calls) == (2, 1)
    look, rest = timeouts[-2:]
    assert look == 30.0
    assert 0.0 < rest <= 60.0


@pytest.mark.usefixtures("looks_always")
def test_a_look_ends_if_the_step_has_no_time_limit(hosts):
    connection = ReplicatedConnection(URLS, lambda url: Connected(hosts[url]))
    walker, home, other = placed(connection, hosts)
    other.error = DeadlineExceededError("no reply in time")
    assert walker.send(Call("PredictStream", STEP.message, None)).timings.batch_n_atoms == 10
    assert (home.n_calls, other.n_calls) == (2, 1)


OTHERS = {
    "weights": pb.StreamReply(provenance=pb.Provenance(sha256="other")),
    "models": pb.StreamReply(error=pb.Error(type="UnknownModelError", message="not served")),
    "opinions": InvalidSystemError("no such system"),
}


@pytest.mark.usefixtures("looks_always")
@pytest.mark.parametrize("reply", OTHERS.values(), ids=OTHERS)
def test_a_look_at_a_replica_that_is_different_is_not_noticed(hosts, monkeypatch, reply):
    connection = ReplicatedConnection(URLS, lambda url: Connected(hosts[url]))
    walker, home, other = placed(connection, hosts)
    asked = []

    def answer():
        asked.append(reply)
        if isinstance(reply, Exception):
            raise reply
        return reply

    monkeypatch.setattr(other, "answer", answer)
    for _ in range(4):
        assert walker.send(STEP).timings.batch_n_atoms == 10
    assert home.n_calls == 5
    assert asked


@pytest.mark.usefixtures("looks_always")
def test_a_look_at_a_replica_whose_streams_fail_to_open_is_not_noticed(hosts):
    connection = ReplicatedConnection(URLS, lambda url: Connected(hosts[url]))
    walker, home, other = placed(connection, hosts)
    other.stream_error = UnavailableError("no stream")
    for _ in range(5):
        walker.send(STEP)
    assert (home.n_calls, other.n_calls) == (6, 0)


@pytest.mark.usefixtures("looks_always")
def test_an_asyncio_look_at_a_replica_whose_streams_fail_to_open_is_not_noticed(hosts):
    async def walk():
        connection = AsyncReplicatedConnection(URLS, lambda url: AsyncConnected(hosts[url]))
        walker = connection.stream()
        await walker.send(STEP)
        home, other = sorted(hosts.values(), key=lambda host: -host.n_calls)
        other.stream_error = UnavailableError("no stream")
        for _ in range(5):
            await walker.send(STEP)
        assert (home.n_calls, other.n_calls) == (6, 0)

    asyncio.run(walk())


@pytest.mark.usefixtures("looks_always")
def test_an_asyncio_walker_looks_and_returns(hosts):
    for host in hosts.values():
        host.n_waiting = 1000

    async def walk():
        connection = AsyncReplicatedConnection(URLS, lambda url: AsyncConnected(hosts[url]))
        walker = connection.stream()
        for _ in range(10):
            await walker.send(STEP)
        await walker.close()

    asyncio.run(walk())
    assert sorted(host.n_calls for host in hosts.values()) == [5, 5]


@pytest.mark.parametrize("error", ["UnavailableError", "OverloadedError"])
def test_a_reply_that_refuses_a_step_sends_the_walker_elsewhere(hosts, error, monkeypatch):
    connection = ReplicatedConnection(URLS, lambda url: Connected(hosts[url]))
    walker, home, other = placed(connection, hosts)
    refusal = pb.StreamReply(error=pb.Error(type=error, message="not now"))
    monkeypatch.setattr(home, "answer", lambda: refusal)
    with pytest.raises(Exception, match="not now"):
        walker.send(STEP)
    walker.send(STEP)
    assert other.n_calls == 1


def frames(n):
    """Return the systems of a walker: positions change, now and then the cell, once the atoms."""
    rng = np.random.default_rng(0)
    system = crystal(8, seed=0)
    found = []
    for number in range(n):
        cell = system.cell * 1.01 if number % 5 == 4 else None
        system = system.moved(system.positions + rng.normal(0.0, 0.01, (len(system), 3)), cell)
        found.append(crystal(27, seed=1) if number == n // 2 else system)
    return found


OUTPUTS = [frozenset({"energy"}), frozenset({"energy", "conservative_forces"})]


def test_a_whole_message_says_what_all_messages_of_a_stream_have_said():
    encoder, decoder, memory = StreamEncoder("lj", "float32"), StreamDecoder(), StepMemory()
    for number, system in enumerate(frames(20)):
        message = encoder.encode(system, OUTPUTS[number // 3 % 2])
        memory.note(message)
        expected, found = decoder.decode(message), StreamDecoder().decode(memory.whole())
        assert (found.model, found.outputs) == (expected.model, expected.outputs)
        assert found.reply_dtype == expected.reply_dtype == "float32"
        for name in ("atomic_numbers", "positions", "cell", "pbc"):
            ours, theirs = (getattr(each.systems[0], name) for each in (found, expected))
            np.testing.assert_array_equal(ours, theirs)
        if number == 13:
            encoder.reset()


@pytest.fixture(scope="module")
def servers():
    with ExitStack() as stack:
        yield [stack.enter_context(serve(engine="thread")) for _ in range(2)]


@pytest.fixture(params=SCHEMES)
def urls(servers, request):
    return [getattr(each, f"{request.param}_url") for each in servers]


@pytest.mark.usefixtures("looks_always")
def test_no_step_differs_for_a_walker_that_looks_at_each(urls):
    systems = frames(20)
    joined = f"{urls[0]},{urls[1].partition('://')[2]}"

    def walk(url):
        with Client(url, timeout=60) as client, client.stream("lj") as walker:
            return [
                walker.predict(system, OUTPUTS[number // 3 % 2])
                for number, system in enumerate(systems)
            ]

    async def walk_with_asyncio():
        async with AsyncClient(joined, timeout=60) as client:
            walker = client.stream("lj")
            return [
                await walker.predict(system, OUTPUTS[number // 3 % 2])
                for number, system in enumerate(systems)
            ]

    expected = walk(urls[0])
    for found in (walk(joined), asyncio.run(walk_with_asyncio())):
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.energy == pytest.approx(theirs.energy, abs=1e-9)
            if theirs.conservative_forces is None:
                assert ours.conservative_forces is None
            else:
                forces = ours.conservative_forces, theirs.conservative_forces
                np.testing.assert_allclose(*forces, atol=1e-9)


def test_the_calls_of_other_kinds_are_left_alone(hosts):
    connection = ReplicatedConnection(URLS, lambda url: Connected(hosts[url]))
    for _ in range(4):
        connection.send(CALL)
    assert sum(host.n_calls for host in hosts.values()) == 4
