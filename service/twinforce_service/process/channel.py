"""The way between two processes of one machine: messages of frames, over a Unix socket.

Each end sends from any thread, and nobody ever waits for the other end to take what is sent: what
finds no room in the socket waits in memory until who looks after this end flushes it. Receiving
never waits either, so that an event loop can do it, or a thread that has other things to wait for.

A message is the number of its frames, their sizes, and the frames, all of it at multiples of 8
bytes, so that arrays can be looked into where they are.
"""

import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from threading import Lock
from typing import TypeAlias

from numpy.typing import NDArray

Frame: TypeAlias = "bytes | memoryview | NDArray"  # type: ignore[type-arg]

_ALIGNMENT = 8
_PADDING = bytes(_ALIGNMENT)
_COUNT = struct.Struct("Q")
# Bytes: up to here a message is copied into one piece, which is faster than many.
_MAX_JOINED = 1 << 16
_N_BUFFER = 1 << 18
# Of what the kernel keeps for a socket; it gives less where it is not allowed more.
_N_SOCKET = 1 << 22
# Pieces that one call of the kernel takes.
_MAX_PIECES = 512


class Channel:
    """One end.

    Args:
        connected: A stream of bytes to the other end; belongs to this one.
        on_unsent: Called, in the thread that sends, when there is something to `flush`.
    """

    def __init__(
        self, connected: socket.socket, on_unsent: Callable[[], None] = lambda: None
    ) -> None:
        connected.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            connected.setsockopt(socket.SOL_SOCKET, option, _N_SOCKET)
        self.on_unsent = on_unsent
        self._socket = connected
        self._sending = Lock()
        self._unsent: deque[bytes | memoryview] = deque()
        self._is_open = True
        self._parser = _Parser()

    def fileno(self) -> int:
        """Return what to wait at for something to receive, or for room to flush."""
        return self._socket.fileno()

    def send(self, frames: Sequence[Frame]) -> None:
        """Send a message, unless this end is closed; it is lost if the other one is.

        Args:
            frames: At least one. They must not change any more: large ones are not copied.
        """
        pieces = _pieces(frames)
        with self._sending:
            if not self._is_open:
                return
            was_idle = not self._unsent
            self._unsent.extend(pieces)
            if was_idle:
                self._send_unsent()
            is_news = was_idle and bool(self._unsent)
        if is_news:
            self.on_unsent()

    def flush(self) -> bool:
        """Send what there is room for now; return whether that was all."""
        with self._sending:
            self._send_unsent()
            return not self._unsent

    @property
    def has_unsent(self) -> bool:
        """Whether something waits for room."""
        return bool(self._unsent)

    def receive(self) -> list[list[memoryview]]:
        """Return the frames of each message that has come, without waiting for more.

        Raises:
            EOFError: The other end is closed, and all that it sent was received.
        """
        messages: list[list[memoryview]] = []
        while True:
            room = self._parser.room()
            try:
                n_bytes = self._socket.recv_into(room)
            except BlockingIOError:
                return messages
            except ConnectionError:
                n_bytes = 0
            if not n_bytes:
                if messages:  # who comes again is told
                    return messages
                raise EOFError("the other end is closed")
            messages += self._parser.take(n_bytes)
            if n_bytes < len(room):
                return messages

    def close(self) -> None:
        """Send and receive nothing more."""
        with self._sending:
            self._is_open = False
            self._unsent.clear()
            self._socket.close()

    def _send_unsent(self) -> None:
        while self._unsent:
            try:
                if len(self._unsent) == 1:
                    n_bytes = self._socket.send(self._unsent[0])
                else:
                    n_bytes = self._socket.sendmsg(tuple(islice(self._unsent, _MAX_PIECES)))
            except BlockingIOError:
                return
            except ConnectionError:  # the other end is closed, which who receives will notice
                self._unsent.clear()
                return
            except OSError:  # part of a message may be lost, so that nothing after it makes sense
                self._unsent.clear()
                self._socket.shutdown(socket.SHUT_RDWR)
                return
            self._forget(n_bytes)

    def _forget(self, n_bytes: int) -> None:
        while n_bytes:
            first = self._unsent.popleft()
            if n_bytes < len(first):
                self._unsent.appendleft(memoryview(first)[n_bytes:])
                return
            n_bytes -= len(first)


class _Parser:
    """Bytes of messages, in whatever portions they come."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(_N_BUFFER))
        self._start = self._stop = 0
        # A message that has begun and does not fit into the buffer.
        self._large = memoryview(b"")

    def room(self) -> memoryview:
        """Return where the next bytes are to be put."""
        return (self._large or self._buffer)[self._stop :]

    def take(self, n_bytes: int) -> list[list[memoryview]]:
        """Return the frames of the messages that are complete with so many bytes more."""
        self._stop += n_bytes
        if not self._large:
            return self._taken()
        if self._stop < len(self._large):
            return []
        message, size = self._large, _size(self._large)
        if size > len(message):  # that was only how it begins
            self._large = memoryview(bytearray(size))
            self._large[: len(message)] = message
            return []
        self._large, self._start, self._stop = memoryview(b""), 0, 0
        return [_frames(message.toreadonly())]

    def _taken(self) -> list[list[memoryview]]:
        messages: list[list[memoryview]] = []
        size = 0
        while self._start < self._stop:
            size = _size(self._buffer[self._start : self._stop])
            if size > self._stop - self._start:
                break
            message = bytes(self._buffer[self._start : self._start + size])
            messages.append(_frames(memoryview(message)))
            self._start += size
        self._keep_rest(size)
        return messages

    def _keep_rest(self, size: int) -> None:
        """Move the beginning of a message of at least this size to where its end has room."""
        rest = bytes(self._buffer[self._start : self._stop])
        self._start, self._stop = 0, len(rest)
        if not rest:
            return
        if size > _N_BUFFER:
            self._large = memoryview(bytearray(size))
        (self._large or self._buffer)[: len(rest)] = rest


def pair() -> tuple[Channel, socket.socket]:
    """Return one end, and the socket of the other one, which another process is to have."""
    ours, theirs = socket.socketpair()
    return Channel(ours), theirs


def _pieces(frames: Sequence[Frame]) -> list[bytes | memoryview]:
    """Return the bytes of a message."""
    sizes = [frame.nbytes if hasattr(frame, "nbytes") else len(frame) for frame in frames]
    pieces: list[Frame] = [struct.pack(f"{1 + len(sizes)}Q", len(sizes), *sizes)]
    for frame, size in zip(frames, sizes, strict=True):
        pieces.append(frame)
        if size % _ALIGNMENT:
            pieces.append(_PADDING[: -size % _ALIGNMENT])
    if sum(sizes) <= _MAX_JOINED:
        return [b"".join(pieces)]  # type: ignore[arg-type]  # arrays
    return [memoryview(piece).cast("B") for piece in pieces if len(piece)]  # type: ignore[arg-type]


def _size(begun: memoryview) -> int:
    """Return the size of the message that begins like this, or more than came of it so far."""
    if len(begun) < _ALIGNMENT:
        return _ALIGNMENT
    n_head: int = _ALIGNMENT * (1 + _COUNT.unpack_from(begun)[0])
    if len(begun) < n_head:
        return n_head
    sizes = begun[_ALIGNMENT:n_head].cast("Q")
    return n_head + sum([size + -size % _ALIGNMENT for size in sizes])


def _frames(message: memoryview) -> list[memoryview]:
    """Return the frames of a complete message."""
    start = _ALIGNMENT * (1 + _COUNT.unpack_from(message)[0])
    frames = []
    for size in message[_ALIGNMENT:start].cast("Q"):
        frames.append(message[start : start + size])
        start += size + -size % _ALIGNMENT
    return frames
