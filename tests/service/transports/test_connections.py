"""Tests that connections are bounded in number, time and size, and that others do not suffer."""

import contextlib
import json
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest

from tests.clients.proxy import CountingProxy
from tests.conftest import free_ports
from tests.potentials import ARGON, Gated, Soft, loaded
from tests.service.transports.rest_bodies import json_body
from tests.systems import crystal, molecule
from tests.waiting import wait_until
from twinforce import Client, UnavailableError
from twinforce_dynamics.start import Integrator, Start
from twinforce_proto import System
from twinforce_service.embedded import run_in_thread
from twinforce_service.transports.rest.connections import MAX_HEAD_BYTES

PATIENCE = 60.0
PATH = "/v1/models/soft/energy"
POST = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n".encode()
LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
QUICK = 0.4


@contextlib.contextmanager
def serving(potential=None, **settings):
    models = {"soft": loaded(potential or Soft())}
    with run_in_thread(free_ports(**settings), lambda: models) as server:
        yield server


@contextlib.contextmanager
def connected(server, scheme="rest", receive_buffer=0):
    address = urlsplit(server.rest_url if scheme == "rest" else server.grpc_url)
    with socket.socket() as connection:
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(PATIENCE)
        connection.connect((address.hostname, address.port))
        yield connection


def answer(connection):
    """Return the status of a reply after which the connection ends, and the problem in it."""
    reply = b""
    while part := connection.recv(2**16):
        reply += part
    if not reply:
        return None, None
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def assert_live(connection):
    connection.sendall(LIVE)
    reply = b""
    while b'{"status":"live"}' not in reply:
        part = connection.recv(2**16)
        assert part, reply
        reply += part


def is_live(server):
    return httpx2.get(f"{server.rest_url}/health/live", timeout=PATIENCE).status_code == 200


@pytest.fixture(scope="module")
def quick():
    """Return a service that does not wait long for headers and bodies."""
    with serving(header_timeout=QUICK, min_rate=10**6, max_body_bytes=2**20) as server:
        yield server


@pytest.fixture(scope="module")
def patient():
    with serving() as server:
        yield server


@pytest.mark.parametrize("begin", [b"", b"\r\n\r\n", b"GET", POST, POST + b"X-Half: "])
def test_a_connection_without_a_whole_header_is_closed(quick, begin):
    with connected(quick) as connection:
        connection.sendall(begin)
        status, problem = answer(connection)
    assert status == 408
    assert problem["detail"] == f"no whole header came within {QUICK} s"
    assert is_live(quick)


def test_a_connection_that_begins_another_header_is_closed_too(quick):
    with connected(quick) as connection:
        assert_live(connection)
        connection.sendall(POST)
        assert answer(connection)[0] == 408


def test_a_body_that_comes_too_slowly_ends_its_call_alone(quick):
    with connected(quick) as connection:
        connection.sendall(POST + b"Content-Length: 100000\r\n\r\n{")
        status, problem = answer(connection)
    assert status == 408
    assert problem["detail"] == "the body came at less than 1e+06 bytes per second"
    assert is_live(quick)


def test_calls_that_take_longer_than_headers_may_are_answered():
    potential = Gated()
    with (
        serving(potential, header_timeout=0.05, min_rate=10**9) as server,
        ThreadPoolExecutor(1) as pool,
        httpx2.Client(base_url=server.rest_url, timeout=PATIENCE) as rest,
    ):
        reply = pool.submit(rest.post, PATH, json=json_body(molecule()))
        time.sleep(0.5)
        assert not reply.done()
        potential.gate.release(100)
        assert reply.result().status_code == 200


@pytest.mark.parametrize("begin", [b"", b"GET / HTTP/1.1\r\n"])
def test_a_connection_to_the_port_of_grpc_that_does_not_speak_http_2_is_closed(quick, begin):
    with connected(quick, "grpc") as connection:
        connection.sendall(begin)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(2**16):  # its settings
                pass
    with Client(quick.grpc_url) as client:
        assert client.models()


@pytest.mark.parametrize(
    ("begin", "more", "status"),
    [
        (POST + b"X-Long: ", b"a", 431),
        (POST, b"X-More: a\r\n", 431),
        (b"GET /", b"a", 414),
        (b"", b"\r\n", 431),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n{\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-More: a\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1;x=" + b"a" * 99 + b"\r\n{\r\n", 400),
        (b"", LIVE, 400),
    ],
)
def test_what_never_ends_is_refused(patient, begin, more, status):
    n_bytes = 4 * MAX_HEAD_BYTES
    with connected(patient) as connection:
        connection.sendall(begin + more * (n_bytes // len(more)))
        reply = b""
        while b" %d " % status not in reply:
            part = connection.recv(2**16)
            assert part, reply[-300:]
            reply += part
    assert b"application/problem+json" in reply
    assert is_live(patient)


def test_a_head_just_below_the_limit_is_read(patient):
    with connected(patient) as connection:
        filler = MAX_HEAD_BYTES - len(LIVE) - len(b"X: \r\n") - 1
        connection.sendall(LIVE[:-2] + b"X: " + b"a" * filler + b"\r\n\r\n")
        assert connection.recv(2**16).startswith(b"HTTP/1.1 200")


def test_some_requests_may_be_sent_before_their_replies(patient):
    with connected(patient) as connection:
        connection.sendall(LIVE * 10)
        reply = b""
        while reply.count(b'{"status":"live"}') < 10:
            reply += connection.recv(2**16)
        assert reply.count(b"HTTP/1.1 200") == 10


def test_one_address_has_a_limited_number_of_connections():
    with serving(max_connections_per_address=3) as server, contextlib.ExitStack() as stack:
        opened = [stack.enter_context(connected(server)) for _ in range(3)]
        for each in opened:
            assert_live(each)
        with connected(server) as further:
            status, problem = answer(further)
        assert status == 429
        assert problem["type"] == "urn:twinforce:error:OverloadedError"
        assert problem["retry_after"] == 1.0
        assert "from one /64 network of IPv6 (max_connections_per_address)" in problem["detail"]
        opened[0].close()
        wait_until(lambda: _answers(server))


def _answers(server):
    with connected(server) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(LIVE)
        return connection.recv(2**16).startswith(b"HTTP/1.1 200")
    return False


def test_the_connection_that_has_waited_longest_makes_room():
    potential = Gated()
    with (
        serving(potential, max_connections=3) as server,
        ThreadPoolExecutor(1) as pool,
        httpx2.Client(base_url=server.rest_url, timeout=PATIENCE) as rest,
        contextlib.ExitStack() as stack,
    ):
        busy = pool.submit(rest.post, PATH, json=json_body(molecule()))
        for _ in range(3):  # twice for the warm-up
            assert potential.entered.acquire(timeout=PATIENCE)
        waiting = [stack.enter_context(connected(server)) for _ in range(2)]
        for each in waiting:
            assert_live(each)
        for i in range(2):
            newest = stack.enter_context(connected(server))
            assert_live(newest)
            with contextlib.suppress(ConnectionResetError):
                assert waiting[i].recv(1) == b""
        potential.gate.release(100)
        assert busy.result().status_code == 200


def gas(n_atoms):
    grid = np.stack(np.meshgrid(*[np.arange(28.0)] * 3), axis=-1).reshape(-1, 3)[:n_atoms]
    return System(np.full(n_atoms, ARGON), 8.0 * grid)


def test_a_client_that_does_not_read_its_reply_is_dropped():
    body = json.dumps(json_body(*[gas(10_000)] * 2)).encode()
    with (
        serving(header_timeout=QUICK, min_rate=10**6) as server,
        connected(server, receive_buffer=4096) as connection,
    ):
        path = f"POST /v1/models/soft/conservative-forces HTTP/1.1\r\nContent-Length: {len(body)}"
        connection.sendall(path.encode() + b"\r\nHost: localhost\r\n\r\n" + body)
        ended = select.poll()
        ended.register(connection, select.POLLHUP)
        assert ended.poll(1000 * PATIENCE)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        assert is_live(server)


def test_a_client_may_pause_while_it_reads_the_updates_of_a_run():
    system = crystal(64)
    start = Start(system, np.zeros((64, 3)), Integrator(inner_steps=2))
    with (
        serving(header_timeout=QUICK, min_rate=10**9) as server,
        Client(server.rest_url) as client,
    ):
        snapshots = client.propagate(start, 200, interval=2)
        next(snapshots)
        time.sleep(2 * QUICK)
        assert sum(1 for _ in snapshots) == 100


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def opened_from(address, server, stack):
    """Return a connection to the port of gRPC that speaks HTTP/2."""
    connection = stack.enter_context(socket.socket())
    connection.settimeout(PATIENCE)
    connection.bind((address, 0))
    connection.connect(("127.0.0.1", urlsplit(server.grpc_url).port))
    connection.sendall(PREFACE)
    return connection


def is_open(connection):
    connection.setblocking(False)
    try:
        while connection.recv(2**16):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def test_one_address_has_a_limited_number_of_grpc_connections_and_the_newest_are_closed():
    with (
        serving(max_connections_per_address=3) as server,
        Client(server.grpc_url) as client,
        contextlib.ExitStack() as stack,
    ):
        assert client.models()
        opened = [opened_from("127.0.0.2", server, stack) for _ in range(4)]
        wait_until(lambda: sum(map(is_open, opened)) == 3)  # those of one look have no order
        opened = [each for each in opened if is_open(each)]
        further = [opened_from("127.0.0.2", server, stack) for _ in range(5)]
        wait_until(lambda: not any(map(is_open, further)))
        assert all(map(is_open, opened))
        assert client.models()
        opened.pop().close()
        new = opened_from("127.0.0.2", server, stack)
        assert new.recv(1)
        assert all(map(is_open, [*opened, new]))


@pytest.mark.parametrize("way", ["call", "stream"])
def test_a_grpc_client_that_does_not_read_its_reply_is_dropped(way, caplog):
    systems, outputs = [gas(15_000)], ["conservative_forces"]
    with serving(header_timeout=1.5, min_rate=10**6) as server, contextlib.ExitStack() as stack:
        proxy = CountingProxy(urlsplit(server.grpc_url).port)
        stack.callback(proxy.close)
        address = f"grpc://127.0.0.1:{proxy.port}"
        client = stack.enter_context(Client(address, timeout=PATIENCE, max_retries=0))
        asked = partial(client.predict, model="soft")
        if way == "stream":
            asked = client.stream("soft").predict
        # Its threads have a connection of their own, which is there before replies are held.
        pool = stack.enter_context(ThreadPoolExecutor(1))
        assert pool.submit(client.models).result()
        proxy.hold()
        found = pool.submit(asked, systems if way == "call" else systems[0], outputs)
        wait_until(lambda: "their clients did not read" in caplog.text)
        n_connections = proxy.n_connections
        proxy.resume()
        with contextlib.suppress(UnavailableError):  # it may have repeated the call
            found.result()
        assert pool.submit(client.predict, systems, outputs).result()
        assert proxy.n_connections > n_connections


def test_a_grpc_client_may_pause_while_it_reads_the_updates_of_a_run():
    system = crystal(64)
    start = Start(system, np.zeros((64, 3)), Integrator(inner_steps=2))
    with (
        serving(header_timeout=2.0, min_rate=10**6) as server,
        Client(server.grpc_url, max_retries=0) as client,
    ):
        snapshots = client.propagate(start, 100, interval=2)
        next(snapshots)
        time.sleep(5.0)
        assert sum(1 for _ in snapshots) == 50
