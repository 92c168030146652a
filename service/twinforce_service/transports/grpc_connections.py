"""The connections of the gRPC port: how many come from one address, and whether they are read.

The library of gRPC accepts connections itself and says nothing of them, and a layer that accepts
and forwards them would cost every step two copies. So its sockets are looked for among the open
files of this process, once a second, in a thread, and those that break a rule are shut down.
"""

import fcntl
import logging
import os
import socket
import stat
import struct
import termios
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from twinforce_service.hosts import address_in, network_of
from twinforce_service.transports.grpc_gate import place_of

logger = logging.getLogger(__name__)

_FILES = "/dev/fd"
# Place and form of the number of acknowledged bytes in the information that Linux has of a
# connection (struct tcp_info in linux/tcp.h), and the length up to there.
_ACKNOWLEDGED, _N_INFO = struct.Struct("=Q"), 128
_AT = 120

# A longer time between two looks, in s, is the fault of this process. No more than this counts.
_LONGEST_LOOK = 2.0

_Place = tuple[str, int]


class _Reply(NamedTuple):
    """A reply that is being sent."""

    peer: str
    n_bytes: int
    began: float


class _Sending(NamedTuple):
    """The replies that are being sent to a client: the time of the oldest, in s."""

    began: float
    is_late: bool


@dataclass(slots=True, eq=False)
class _Connection:
    """A connection, and its state at a look since which it always had something to read.

    Attributes:
        place: Address and port of the client.
        fd: Number of the file.
        since: Time of that look, in s; None if there is nothing to read.
        n_read: Bytes that the client had acknowledged then.
        n_unsent: Bytes that it had not acknowledged then.
    """

    place: _Place
    fd: int
    since: float | None = None
    n_read: int = 0
    n_unsent: int = 0


class GrpcConnections:
    """The connections of the gRPC port, kept within the limits that those of REST have.

    Args:
        max_per_address: Number of open connections from one address, or /64 network of IPv6; the
            newest ones are closed.
        timeout: Seconds that a client may take to read something.
        min_rate: Bytes per second at which clients read, averaged over these seconds.
        clock: Returns the time, in s.
    """

    def __init__(
        self,
        max_per_address: int,
        timeout: float,
        min_rate: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_per_address = max_per_address
        self._timeout = timeout
        self._min_rate = min_rate
        self._clock = clock
        self._looked_at = clock()
        # Time for which this process was awake, at the last look.
        self._now = 0.0
        self._numbers = count()
        self._replies: dict[int, _Reply] = {}
        # The sockets by their number in the system, which no later one has: the connections, in the
        # order of the looks that found them, and the others.
        self._connections: dict[int, _Connection] = {}
        self._others: set[int] = set()

    def note_reply(self, peer: str, n_bytes: int) -> int:
        """Note that a reply is being sent; return its number."""
        number = next(self._numbers)
        self._replies[number] = _Reply(peer, n_bytes, self._now)
        return number

    def note_end(self, number: int) -> None:
        """Note that a reply was read, or that its call is over."""
        self._replies.pop(number, None)

    def check(self, port: int) -> None:
        """Close the connections to a port that break a rule; that takes milliseconds for hundreds.

        Args:
            port: Port that gRPC listens on.
        """
        looked_at, self._looked_at = self._looked_at, self._clock()
        self._now += min(self._looked_at - looked_at, _LONGEST_LOOK)
        self._find(port)
        now = self._now
        sending = self._sending(now)
        surplus, n_by_address = [], Counter[str]()
        for number, each in self._connections.items():
            network = network_of(each.place[0])
            n_by_address[network] += 1
            if n_by_address[network] > self._max_per_address:
                surplus.append(number)
        unread = [
            number
            for number, each in self._connections.items()
            if self._is_slow(each, now, sending.get(each.place))
        ]
        self._close(
            surplus, "too many came from one address or /64 network (max_connections_per_address)"
        )
        self._close(unread, "their clients did not read")

    def _find(self, port: int) -> None:
        """Look for the sockets that are open now."""
        found: dict[int, int] = {}
        for name in os.listdir(_FILES):  # noqa: PTH208
            with suppress(OSError, ValueError):
                status = os.fstat(int(name))
                if stat.S_ISSOCK(status.st_mode):
                    found[status.st_ino] = int(name)
        self._others &= found.keys()
        for number in [each for each in self._connections if each not in found]:
            del self._connections[number]
        for number in sorted(found.keys() - self._others):
            if (known := self._connections.get(number)) is not None:
                known.fd = found[number]
            elif (place := _place_of(found[number], number, port)) is not None:
                self._connections[number] = _Connection(place, found[number])
            else:
                self._others.add(number)

    def _sending(self, now: float) -> dict[_Place, _Sending]:
        """Return the replies that are being sent, by the places of their clients."""
        sending: dict[_Place, _Sending] = {}
        for reply in list(self._replies.values()):
            host, port = place_of(reply.peer)
            if not port.isdecimal():  # a socket of this machine
                continue
            place = str(address_in(host)), int(port)
            limit = self._timeout + reply.n_bytes / self._min_rate if self._min_rate else now
            began, is_late = sending.get(place, _Sending(reply.began, is_late=False))
            is_late = is_late or now - reply.began > limit
            sending[place] = _Sending(min(began, reply.began), is_late)
        return sending

    def _is_slow(self, connection: _Connection, now: float, sending: _Sending | None) -> bool:
        """Return True if a client reads too little of what is there for it.

        A client that reads all that was there at the beginning of the time that it has is not slow,
        however little that was: the replies of a walker are small, and on a long line some bytes
        are always on their way.
        """
        if sending is not None and sending.is_late:
            return True
        try:
            n_unsent = _n_unsent(connection.fd)
            if not (n_unsent or sending) or not hasattr(socket, "TCP_INFO"):
                connection.since = None
                return False
            with _opened(connection.fd) as opened:
                info = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _N_INFO)
                (n_read,) = _ACKNOWLEDGED.unpack_from(info, _AT)
        except (OSError, struct.error):  # it is closed, or the system is another one
            connection.since = None
            return False
        since = now if connection.since is None else connection.since
        if connection.since is not None and now - since < self._timeout:
            return False
        n_more = n_read - connection.n_read
        is_behind = n_more < connection.n_unsent or (sending is not None and sending.began < since)
        is_slow = is_behind and n_more < self._min_rate * (now - since)
        connection.since, connection.n_read, connection.n_unsent = now, n_read, n_unsent
        return bool(is_slow)

    def _close(self, numbers: list[int], reason: str) -> None:
        """Shut connections down, which gRPC notices as if their clients had."""
        n_closed, addresses = 0, set()
        for number in numbers:
            if (connection := self._connections.pop(number, None)) is None:
                continue
            self._others.add(number)
            with suppress(OSError), _opened(connection.fd) as opened:
                if os.fstat(opened.fileno()).st_ino == number:
                    opened.shutdown(socket.SHUT_RDWR)
                    addresses.add(connection.place[0])
                    n_closed += 1
        if addresses:
            extra = {"addresses": sorted(addresses)[:10]}
            logger.warning("%d connections of gRPC were closed: %s", n_closed, reason, extra=extra)


@contextmanager
def _opened(fd: int) -> Iterator[socket.socket]:
    """Yield a socket of a file that others may close; it stays the same file meanwhile."""
    copied = os.dup(fd)
    try:
        opened = socket.socket(fileno=copied)
    except OSError:  # it is no socket any more
        os.close(copied)
        raise
    with opened:
        yield opened


def _place_of(fd: int, number: int, port: int) -> _Place | None:
    """Return where a connection to a port comes from; None if the file is none."""
    with suppress(OSError), _opened(fd) as opened:
        is_same = os.fstat(opened.fileno()).st_ino == number
        is_tcp = opened.family in (socket.AF_INET, socket.AF_INET6)
        if is_same and is_tcp and opened.getsockname()[1] == port:
            host, peer_port, *_ = opened.getpeername()
            return str(address_in(host)), peer_port
    return None


def _n_unsent(fd: int) -> int:
    """Return the number of bytes that the peer has not acknowledged."""
    (n_bytes,) = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0" * 4))
    return int(n_bytes)
