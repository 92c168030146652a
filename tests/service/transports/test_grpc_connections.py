"""The connections of the gRPC port: who counts as a client that does not read."""

import contextlib
import fcntl
import re
import socket
import stat
import struct
import termios
from pathlib import Path

import pytest

from twinforce_service.transports.grpc_connections import GrpcConnections

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "TCP_INFO"), reason="needs the numbers that Linux has of a connection"
)
TIMEOUT, MIN_RATE = 10.0, 10**6
PATIENCE = 20.0


class Line:
    """A connection with little room, over which this process sends to itself."""

    def __init__(self, stack):
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        listener.listen()
        self.port = listener.getsockname()[1]
        self.client = stack.enter_context(socket.socket())
        self.client.settimeout(PATIENCE)
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.client.connect(("127.0.0.1", self.port))
        self.server = stack.enter_context(listener.accept()[0])
        self.server.setblocking(False)
        host, port = self.client.getsockname()
        self.peer = f"ipv4:{host}:{port}"

    @property
    def n_unsent(self):
        found = fcntl.ioctl(self.server.fileno(), termios.TIOCOUTQ, bytes(4))
        return struct.unpack("i", found)[0]

    def fill(self):
        """Send until there is no more room."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.server.send(bytes(2**16))
        assert self.n_unsent

    def read_all(self):
        self.client.setblocking(False)
        while self.n_unsent:
            self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            with contextlib.suppress(BlockingIOError):
                self.client.recv(2**16)
        self.client.settimeout(PATIENCE)

    @property
    def is_open(self):
        self.client.setblocking(False)
        try:
            while self.client.recv(2**16):
                pass
        except BlockingIOError:
            return True
        finally:
            self.client.settimeout(PATIENCE)
        return False


@pytest.fixture
def line():
    with contextlib.ExitStack() as stack:
        yield Line(stack)


class Looks:
    """Looks at the connections, one a second."""

    def __init__(self, line, **options):
        self._now, self._port = 0.0, line.port
        given = {"max_per_address": 9, "timeout": TIMEOUT, "min_rate": MIN_RATE} | options
        self.connections = GrpcConnections(**given, clock=lambda: self._now)

    def look(self, n_times=1):
        for _ in range(n_times):
            self._now += 1.0
            self.connections.check(self._port)


def test_a_client_that_reads_what_there_was_stays_although_there_is_always_more(line):
    looks = Looks(line)
    for _ in range(40):
        line.fill()
        looks.look()
        line.read_all()
    assert line.is_open


def test_a_walker_stays_whose_small_replies_are_always_on_their_way(line):
    looks = Looks(line)
    for _ in range(40):
        number = looks.connections.note_reply(line.peer, 10)
        line.server.send(bytes(10))
        line.read_all()
        looks.look()
        looks.connections.note_end(number)
    assert line.is_open


def test_a_client_that_does_not_read_what_there_was_is_closed(line, caplog):
    looks = Looks(line)
    line.fill()
    looks.look(11)
    assert re.search("1 connections of gRPC were closed: their clients did not read", caplog.text)
    assert not line.is_open


def test_a_client_that_reads_a_part_now_and_then_is_closed(line):
    looks = Looks(line)
    line.fill()
    for _ in range(11):
        looks.look()
        line.client.recv(1)
    assert not line.is_open


def test_a_client_that_lets_a_reply_wait_in_its_buffer_is_closed(line):
    looks = Looks(line)
    looks.connections.note_reply(line.peer, 10**9)
    looks.look(20)
    assert not line.is_open


def test_the_log_counts_each_closed_connection_once(line, caplog):
    looks = Looks(line, max_per_address=0)
    looks.connections.note_reply(line.peer, 1)
    looks.look(11)
    counts = re.findall(r"(\d+) connections of gRPC were closed", caplog.text)
    assert counts == ["1"]


def test_a_file_that_is_no_socket_any_more_is_not_left_open(line, monkeypatch):
    monkeypatch.setattr(stat, "S_ISSOCK", lambda _: True)
    before = len(list(Path("/dev/fd").iterdir()))
    Looks(line).look(3)
    assert len(list(Path("/dev/fd").iterdir())) == before
