"""Connections over HTTP that notice that a reply will never come.

HTTP/1.1 has no pings: a path that silently drops everything looks like an evaluation that takes
long. So once a reply is silent for a while, the service is asked over another connection whether
it still works on the request, and how much of the reply it has sent.
"""

import os
import re
import socket
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import httpcore2

from twinforce._transports.signal_handlers import exception_of_handler
from twinforce._transports.transport import KEEP_ALIVE
from twinforce_proto.headers import WATCH_ID

_WATCH_ID = re.compile(rf"\r\n{WATCH_ID}: (\S+)\r\n".encode(), re.IGNORECASE)
# Share of the interval that a reply which was sent has to arrive.
_GRACE = 0.2
_MOST_DOUBLINGS = 20
LOST_REPLY = "the reply was sent, or nothing is known of the request, and nothing arrived"

T = TypeVar("T")
Question = Callable[[str], Any]
AsyncQuestion = Callable[[str], Awaitable[Any]]


def watch_id(n_lost: int) -> str:
    """Return a new name for a request, which ends with the number of its replies that were lost."""
    return f"{uuid.uuid4().hex}-{n_lost}"


class ReplyWatch:
    """The progress of the reply to the last request on a connection.

    If several services share an address, the one that is asked may not know the request. So after
    each reply that was given up, the next attempt has twice the time.
    """

    def __init__(self) -> None:
        self._watch_id = ""
        self._interval = KEEP_ALIVE.interval
        self._n_lines = 0
        self._end_of_data = b""
        self._is_doubtful = False

    def note_sent(self, data: bytes) -> None:
        """Note the head of a request, which holds its id, or a part of its body."""
        if found := _WATCH_ID.search(data, 0, 8192):
            self._watch_id = found[1].decode()
            n_lost = int(self._watch_id.rpartition("-")[2])
            self._interval = KEEP_ALIVE.interval * 2.0 ** min(n_lost, _MOST_DOUBLINGS)
            self._n_lines, self._is_doubtful = 0, False

    def note_received(self, data: bytes) -> None:
        """Note a part of the reply; the lines of its body end without a carriage return."""
        whole = self._end_of_data + data
        self._n_lines += whole.count(b"\n") - whole.count(b"\r\n") - (self._end_of_data == b"\n")
        self._end_of_data = data[-1:]
        self._is_doubtful = False

    def wait(self, n_waits: int) -> float | None:
        """Return the seconds to wait for data before the service is asked; None means forever."""
        if not self._watch_id:
            return None
        if self._is_doubtful:
            return KEEP_ALIVE.interval * _GRACE
        return self._interval * (1 if n_waits else 2)

    @property
    def watch_id(self) -> str:
        """Id of the request, about which the service is asked."""
        return self._watch_id

    def note_answer(self, answer: Any) -> None:
        """Note what the service says about the request.

        Raises:
            httpcore2.ReadError: It has sent more than has arrived, for a second time.
        """
        if not isinstance(answer, dict) or not answer.keys() >= {"is_open", "n_lines_sent"}:
            self._watch_id = ""  # the service cannot be asked
            return
        if answer["is_open"] and answer["n_lines_sent"] <= self._n_lines:
            self._is_doubtful = False
        elif self._is_doubtful:
            raise httpcore2.ReadError(LOST_REPLY)
        else:
            self._is_doubtful = True


class WatchedStream(httpcore2.NetworkStream):
    """A connection whose replies are watched."""

    def __init__(self, stream: httpcore2.NetworkStream, ask: Question) -> None:
        self._stream = stream
        self._watch = ReplyWatch()
        self._ask = ask
        self._pid = os.getpid()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the next data; ask about them if they are late."""
        give_up_at = None if timeout is None else time.monotonic() + timeout
        n_waits = 0
        while True:
            wait, is_last = _shorter(self._watch.wait(n_waits), give_up_at)
            try:
                data = self._stream.read(max_bytes, wait)
            except httpcore2.ReadTimeout as error:
                if is_last or exception_of_handler(error):
                    raise
                n_waits += 1
                self._watch.note_answer(self._ask(self._watch.watch_id))
            else:
                self._watch.note_received(data)
                return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send data."""
        self._watch.note_sent(buffer)
        try:
            self._stream.write(buffer, timeout)
        except httpcore2.WriteError as error:
            # The pool of connections ignores this error, as there may be a reply all the same.
            if (given := exception_of_handler(error)) is not None:
                raise given from None
            raise

    def close(self) -> None:
        """Close the connection, and wake the thread that waits for its data, if there is one."""
        if os.getpid() == self._pid:
            with suppress(OSError):
                self._stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._stream.close()

    def start_tls(self, *args: Any, **options: Any) -> httpcore2.NetworkStream:
        """Return the same connection with TLS."""
        return WatchedStream(self._stream.start_tls(*args, **options), self._ask)

    def get_extra_info(self, info: str) -> Any:
        """Return information about the connection."""
        return self._stream.get_extra_info(info)


class AsyncWatchedStream(httpcore2.AsyncNetworkStream):
    """The asyncio counterpart of `WatchedStream`."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream, ask: AsyncQuestion) -> None:
        self._stream = stream
        self._watch = ReplyWatch()
        self._ask = ask

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the next data; ask about them if they are late."""
        give_up_at = None if timeout is None else time.monotonic() + timeout
        n_waits = 0
        while True:
            wait, is_last = _shorter(self._watch.wait(n_waits), give_up_at)
            try:
                data = await self._stream.read(max_bytes, wait)
            except httpcore2.ReadTimeout:
                if is_last:
                    raise
                n_waits += 1
                self._watch.note_answer(await self._ask(self._watch.watch_id))
            else:
                self._watch.note_received(data)
                return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send data."""
        self._watch.note_sent(buffer)
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()

    async def start_tls(self, *args: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        """Return the same connection with TLS."""
        stream = await self._stream.start_tls(*args, **options)
        return AsyncWatchedStream(stream, self._ask)

    def get_extra_info(self, info: str) -> Any:
        """Return information about the connection."""
        return self._stream.get_extra_info(info)


class WatchedBackend(httpcore2.SyncBackend):
    """The way to open connections whose replies are watched.

    Args:
        ask: Function that returns what the service says about a request, from its id.
    """

    def __init__(self, ask: Question) -> None:
        self._ask = ask

    def connect_tcp(self, *args: Any, **options: Any) -> httpcore2.NetworkStream:
        """Open a connection."""
        return WatchedStream(super().connect_tcp(*args, **options), self._ask)


class AsyncWatchedBackend(httpcore2.AnyIOBackend):
    """The asyncio counterpart of `WatchedBackend`."""

    def __init__(self, ask: AsyncQuestion) -> None:
        self._ask = ask

    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        """Open a connection."""
        stream = await super().connect_tcp(*args, **options)
        return AsyncWatchedStream(stream, self._ask)


def watched(transport: T, backend: object) -> T:
    """Return a transport of `httpx2` that opens its connections by a backend.

    `httpx2` has no argument for it; without the attribute, replies are not watched.
    """
    pool: Any = getattr(transport, "_pool", None)
    if hasattr(pool, "_network_backend"):
        pool._network_backend = backend
    return transport


def _shorter(wait: float | None, give_up_at: float | None) -> tuple[float | None, bool]:
    """Return the time to wait, and True if no time is left after it."""
    if give_up_at is None:
        return wait, wait is None
    left = max(give_up_at - time.monotonic(), 0.0)
    return (left, True) if wait is None or left <= wait else (wait, False)
