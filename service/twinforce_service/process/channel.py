"""Messages between two processes of one machine, over a Unix socket.

Each end sends in any thread and never waits for the other end to receive: bytes that do not fit
into the socket stay in memory until the owner of this end flushes them. Receiving never waits
either, so that an event loop can do it, or a thread that also waits for other events.

A message is a list of frames. On the wire it is the number of its frames, their sizes, and the
frames, all aligned to 8 bytes, so that arrays can be viewed in place.
"""

import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from threading import Lock
from typing import TypeAlias

from numpy.typing import NDArray

Frame: TypeAlias = "bytes | memoryview | NDArray"  # type: ignore[type-arg]

_ALIGNMENT = 8
_PADDING = bytes(_ALIGNMENT)
_COUNT = struct.Struct("Q")
# Bytes; a message up to this size is copied into one piece, which is faster than many pieces.
_MAX_JOINED = 1 << 16
_N_BUFFER = 1 << 18
# Bytes requested for the buffers of the socket; the kernel may grant less.
_N_SOCKET = 1 << 22
# Pieces that one call of the kernel accepts.
_MAX_PIECES = 512


class Channel:
    """One end of a connection.

    Args:
        connected: A stream socket to the other end; the channel closes it.
        on_unsent: Called, in the sending thread, when there is something to `flush`.
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
        """Return the descriptor to poll before receiving and before flushing."""
        return self._socket.fileno()

    def send(self, frames: Sequence[Frame]) -> None:
        """Send a message; it is lost if either end is closed.

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
            is_blocked = was_idle and bool(self._unsent)
        if is_blocked:
            self.on_unsent()

    def flush(self) -> bool:
        """Send as much as fits into the socket now; return True if nothing is left."""
        with self._sending:
            self._send_unsent()
            return not self._unsent

    @property
    def has_unsent(self) -> bool:
        """True if bytes wait for room in the socket."""
        return bool(self._unsent)

    def receive(self) -> list[list[memoryview]]:
        """Return the frames of each message that has arrived, without waiting for more.

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
                if messages:  # the next call raises the error
                    return messages
                raise EOFError("the other end is closed")
            messages += self._parser.take(n_bytes)
            if n_bytes < len(room):
                return messages

    def close(self) -> None:
        """Close the connection; nothing is sent or received any more."""
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
            except ConnectionError:  # the other end is closed, which the reader will notice
                self._unsent.clear()
                return
            except OSError:  # a message may be cut off, so that the rest cannot be parsed
                self._unsent.clear()
                with suppress(OSError):  # it is not connected any more
                    self._socket.shutdown(socket.SHUT_RDWR)
                return
            self._drop_sent(n_bytes)

    def _drop_sent(self, n_bytes: int) -> None:
        while n_bytes:
            first = self._unsent.popleft()
            if n_bytes < len(first):
                self._unsent.appendleft(memoryview(first)[n_bytes:])
                return
            n_bytes -= len(first)


class _Parser:
    """A parser of messages whose bytes arrive in portions of any size."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(_N_BUFFER))
        self._start = self._stop = 0
        # An incomplete message that does not fit into the buffer.
        self._large = memoryview(b"")

    def room(self) -> memoryview:
        """Return the buffer for the next bytes."""
        return (self._large or self._buffer)[self._stop :]

    def take(self, n_bytes: int) -> list[list[memoryview]]:
        """Return the frames of the messages that this many new bytes complete."""
        self._stop += n_bytes
        if not self._large:
            return self._take_complete()
        if self._stop < len(self._large):
            return []
        message, size = self._large, _size(self._large)
        if size > len(message):  # the message was known only as far as its head
            self._large = memoryview(bytearray(size))
            self._large[: len(message)] = message
            return []
        self._large, self._start, self._stop = memoryview(b""), 0, 0
        return [_frames(message.toreadonly())]

    def _take_complete(self) -> list[list[memoryview]]:
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
        """Move the beginning of a message of at least this size to where its end fits."""
        rest = bytes(self._buffer[self._start : self._stop])
        self._start, self._stop = 0, len(rest)
        if not rest:
            return
        if size > _N_BUFFER:
            self._large = memoryview(bytearray(size))
        (self._large or self._buffer)[: len(rest)] = rest


def pair() -> tuple[Channel, socket.socket]:
    """Return one end, and the socket of the other end for another process."""
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
    """Return the size of the message that begins like this, as far as its head is known.

    If the head is incomplete, the size is that of the head, which is more than what has arrived.
    """
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
