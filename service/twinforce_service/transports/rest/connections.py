"""The connections of the REST API: how many there are, and what they may do to others."""

import asyncio
import logging
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from twinforce_proto import OverloadedError
from twinforce_service.hosts import network_of
from twinforce_service.transports.rest.problems import plain_problem, problem_of

logger = logging.getLogger(__name__)

# Bytes of the first line and the headers of a request, and of a body beyond twice its content.
MAX_HEAD_BYTES = 64 * 1024
# Requests that a client may send on one connection before it has read the first reply.
_MAX_PIPELINED = 16
# Seconds and bytes that a client may still send after a refusal, so that it can read the refusal.
_LINGER_S, _LINGER_BYTES = 2.0, 8 * 2**20
# Seconds after which the system asks whether a silent peer is there, and between its questions.
_PEER_IDLE_S, _PEER_INTERVAL_S, _PEER_PROBES = 60, 10, 3

# Bytes of a reply that the system holds beside those on their way.
_MAX_UNSENT_BYTES = 128 * 1024
_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of connections.

    Attributes:
        max_connections: Number of open connections.
        max_per_address: Number of open connections from one address, or /64 network of IPv6.
        header_timeout: Seconds to send the first line and the headers of a request.
        min_rate: Bytes per second at which clients send bodies and read replies, averaged over
            `header_timeout`.
    """

    max_connections: int
    max_per_address: int
    header_timeout: float
    min_rate: float


class OpenConnections:
    """The open connections, and which of them have no request to answer.

    Args:
        limits: Limits of the connections.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._n_by_address: Counter[str] = Counter()
        self._addresses: dict[BoundedProtocol, str] = {}
        # The connections without a request, the one that has waited longest first.
        self._waiting: dict[BoundedProtocol, None] = {}

    def protocol(self, *args: Any, **values: Any) -> "BoundedProtocol":
        """Return the protocol of a new connection, for uvicorn."""
        return BoundedProtocol(self, *args, **values)

    def admit(self, connection: "BoundedProtocol", address: str) -> None:
        """Count a connection; if there are too many, the one that has waited longest is closed.

        Raises:
            OverloadedError: Too many come from this address, or all have a request to answer.
        """
        if self._n_by_address[address] >= self.limits.max_per_address:
            raise OverloadedError(
                f"at most {self.limits.max_per_address} connections may come from one address, or "
                "from one /64 network of IPv6 (max_connections_per_address)",
                retry_after=1.0,
            )
        if len(self._addresses) >= self.limits.max_connections:
            if not self._waiting:
                text = f"at most {self.limits.max_connections} connections may be open"
                raise OverloadedError(f"{text} (max_connections)", retry_after=1.0)
            longest = next(iter(self._waiting))
            self.forget(longest)
            longest.drop()
        self._addresses[connection] = address
        self._n_by_address[address] += 1
        self._waiting[connection] = None

    def forget(self, connection: "BoundedProtocol") -> None:
        """Count a connection no more."""
        self._waiting.pop(connection, None)
        if (address := self._addresses.pop(connection, None)) is not None:
            self._n_by_address[address] -= 1
            if not self._n_by_address[address]:
                del self._n_by_address[address]

    def note_request(self, connection: "BoundedProtocol") -> None:
        """Note that a connection has a request to answer."""
        self._waiting.pop(connection, None)

    def note_reply(self, connection: "BoundedProtocol") -> None:
        """Note that a connection waits for its next request."""
        if connection in self._addresses:
            self._waiting[connection] = None


class _RefusedError(Exception):
    """Ends the parser of a connection that is refused."""


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 of uvicorn, with limits on time and size for all that comes before a request.

    Args:
        shared: The open connections.
        args: Arguments of uvicorn.
        values: Arguments of uvicorn.
    """

    def __init__(self, shared: OpenConnections, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self._shared = shared
        self._is_in_head, self._is_in_body, self._is_refused = True, False, False
        self._refusal: Response | None = None
        self.url = b""
        self._n_head = self._n_raw = self._n_body = 0
        # The time from which, and the amount from which progress is measured.
        self._since, self._mark = self.loop.time(), 0
        self._check: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit a connection, or refuse it."""
        super().connection_made(transport)
        _set_options(transport.get_extra_info("socket"))
        try:
            self._shared.admit(self, network_of(self.client[0]) if self.client else "")
        except OverloadedError as error:
            self._is_refused = True
            transport.write(_raw(problem_of(error)))
            transport.close()
            return
        self._check_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._shared.forget(self)
        if self._check is not None:
            self._check.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data in parts of limited size, until one of them is refused."""
        view = memoryview(data)
        while len(view) and not self._is_refused and not self.transport.is_closing():
            size = MAX_HEAD_BYTES - self._n_head if self._is_in_head else MAX_HEAD_BYTES
            part, view = view[:size], view[size:]
            self._parse(data if len(part) == len(data) else bytes(part))
        if self._is_refused:
            self._n_raw += len(view)
            if self._n_raw > _LINGER_BYTES:
                self.drop()

    def _parse(self, part: bytes) -> None:
        is_body = self._is_in_body
        if not is_body:
            if not self._is_in_head:
                self._is_in_head, self._since, self._n_head = True, self.loop.time(), 0
            self._n_head += len(part)
        super().data_received(part)
        if self._is_in_head and self._n_head >= MAX_HEAD_BYTES:
            self._refuse(_head_too_large(len(self.url)))
        if is_body and self._is_in_body:
            self._n_raw += len(part)
            if self._n_raw > 2 * self._n_body + MAX_HEAD_BYTES:
                text = "expected chunks of a body with more content than framing, got less"
                self._refuse(plain_problem(HTTPStatus.BAD_REQUEST, text))

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._n_raw = self._n_body = 0

    def on_headers_complete(self) -> None:
        """Begin to answer a request, whose body may follow."""
        if len(self.pipeline) >= _MAX_PIPELINED:
            text = f"expected at most {_MAX_PIPELINED} requests before their replies, got more"
            self._refusal = plain_problem(HTTPStatus.BAD_REQUEST, text)
            raise _RefusedError
        self._is_in_head, self._is_in_body = False, True
        self._since, self._mark = self.loop.time(), 0
        self._shared.note_request(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._n_body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body of a request."""
        self._is_in_body = False
        self._since, self._mark = self.loop.time(), 0
        super().on_message_complete()
        if self.cycle.response_complete:
            self._shared.note_reply(self)

    def on_response_complete(self) -> None:
        """Wait for the next request, or begin to answer one that has come already."""
        super().on_response_complete()
        if not (self._is_in_body or self.pipeline):
            self._shared.note_reply(self)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or what a callback of the parser has refused."""
        self._refuse(self._refusal or plain_problem(HTTPStatus.BAD_REQUEST, msg))

    def drop(self) -> None:
        """End the connection at once, also for what the system still has to send."""
        connection = self.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def _check_later(self) -> None:
        interval = min(1.0, self._shared.limits.header_timeout / 4)
        self._check = self.loop.call_later(interval, self._check_progress)

    def _check_progress(self) -> None:
        """Close the connection if its client is too slow, otherwise check again later."""
        is_closed = self.transport.is_closing() and not self.transport.get_write_buffer_size()
        if self._is_refused or is_closed:
            return
        if self._is_in_head:
            self._check_head()
        elif self._is_in_body:
            self._check_body()
        else:
            self._check_reading()
        self._check_later()

    def _check_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._since = self.loop.time()  # it is our turn
        if self.loop.time() - self._since > self._shared.limits.header_timeout:
            text = f"no whole header came within {self._shared.limits.header_timeout:g} s"
            self._refuse(plain_problem(HTTPStatus.REQUEST_TIMEOUT, text))

    def _check_body(self) -> None:
        if self.flow.read_paused:
            self._since, self._mark = self.loop.time(), self._n_body
        elif self._is_slow(self._n_body - self._mark):
            text = f"the body came at less than {self._shared.limits.min_rate:g} bytes per second"
            self._refuse(plain_problem(HTTPStatus.REQUEST_TIMEOUT, text))

    def _check_reading(self) -> None:
        """Give up a reply of known length that its client does not read; a run may be paused."""
        n_left = self.transport.get_write_buffer_size()
        is_paused = self.cycle is not None and self.cycle.chunked_encoding is not False
        if not n_left or is_paused or n_left > self._mark:
            self._since, self._mark = self.loop.time(), n_left
        elif self._is_slow(self._mark - n_left):
            self.drop()

    def _is_slow(self, n_bytes: int) -> bool:
        """Return True if too few bytes have passed since the last time that enough had."""
        limits, now = self._shared.limits, self.loop.time()
        if now - self._since < limits.header_timeout:
            return False
        if n_bytes < limits.min_rate * (now - self._since):
            return True
        self._since, self._mark = now, self._progress()
        return False

    def _progress(self) -> int:
        return self._n_body if self._is_in_body else self.transport.get_write_buffer_size()

    def _refuse(self, reply: Response) -> None:
        """Send a reply in place of that of the application, and close the connection soon."""
        self._is_refused, self._n_raw = True, 0
        cycle = self.cycle
        is_open = cycle is not None and not cycle.response_complete
        if is_open:
            cycle.disconnected = True
            cycle.message_event.set()
        if not (is_open and cycle.response_started):
            self.transport.write(_raw(reply))
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(_LINGER_S, self.transport.abort)
        else:
            self.transport.close()


def protocol_for(limits: ConnectionLimits) -> Callable[..., BoundedProtocol]:
    """Return the maker of the protocols of connections that share these limits."""
    return partial(BoundedProtocol, OpenConnections(limits))


def _head_too_large(n_url: int) -> Response:
    if n_url > MAX_HEAD_BYTES // 2:
        text = f"expected a URL of less than {MAX_HEAD_BYTES} bytes, got more"
        return plain_problem(HTTPStatus.REQUEST_URI_TOO_LONG, text)
    text = f"expected headers of less than {MAX_HEAD_BYTES} bytes, got more"
    return plain_problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text)


def _raw(reply: Response) -> bytes:
    """Return the bytes of a reply after which the connection closes."""
    status = HTTPStatus(reply.status_code)
    lines = [b"HTTP/1.1 %d %b" % (status, status.phrase.encode())]
    lines += [b"%b: %b" % each for each in [*reply.raw_headers, (b"connection", b"close")]]
    return b"\r\n".join([*lines, b"", bytes(reply.body)])


def _set_options(connection: socket.socket | None) -> None:
    """Let the system hold little of a reply, and notice a peer that vanished without a word."""
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_NOTSENT_LOWAT", _MAX_UNSENT_BYTES),
        ("TCP_KEEPIDLE", _PEER_IDLE_S),
        ("TCP_KEEPINTVL", _PEER_INTERVAL_S),
        ("TCP_KEEPCNT", _PEER_PROBES),
    ):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
