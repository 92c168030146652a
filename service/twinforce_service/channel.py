"""The way between two processes of one machine: messages of frames, over Unix sockets.

Each end sends from any thread and receives in one. Reading and writing the sockets is the work of
a thread of ZeroMQ, which needs no Python: neither end ever waits for the other to take what it
sends, and large frames are not copied.
"""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TypeAlias

import zmq
from numpy.typing import NDArray

Frame: TypeAlias = "bytes | memoryview | NDArray"  # type: ignore[type-arg]

_TO_PARENT, _TO_CHILD = "to-parent", "to-child"
# How long what was sent last has to leave when an end is closed, in ms.
_LINGER_MS = 1000


class Channel:
    """One end.

    Args:
        inbound: A PULL socket.
        outbound: A PUSH socket.
        context: Of both; ends with them.
    """

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        inbound: "zmq.Socket[bytes]",
        outbound: "zmq.Socket[bytes]",
    ) -> None:
        self._context = context
        self._inbound = inbound
        self._outbound = outbound
        self._poller = zmq.Poller()
        self._poller.register(inbound, zmq.POLLIN)
        self._sending = Lock()
        self._is_open = True

    def send(self, frames: Sequence[Frame]) -> None:
        """Send a message, unless this end is closed.

        Args:
            frames: At least one. They must not change any more: large ones are not copied.
        """
        with self._sending:
            if self._is_open:
                self._outbound.send_multipart(frames, copy=False)  # type: ignore[arg-type]  # arrays

    def receive(self) -> list[memoryview]:
        """Wait for the next message, and return its frames."""
        return [frame.buffer for frame in self._inbound.recv_multipart(copy=False)]

    def receive_unless(self, other: int) -> list[memoryview] | None:
        """Wait for the next message; None as soon as there is none and `other` can be read.

        Args:
            other: A file descriptor, always the same.
        """
        if other not in self._poller:
            self._poller.register(other, zmq.POLLIN)
        ready = [which for which, _ in self._poller.poll()]
        return self.receive() if self._inbound in ready else None

    def close(self, linger_ms: int = _LINGER_MS) -> None:
        """Send nothing more.

        Args:
            linger_ms: How long what was sent has to leave.
        """
        with self._sending:
            self._is_open = False
            self._inbound.close(0)
            self._outbound.close(linger_ms)
            self._context.term()


def listen(directory: Path) -> Channel:
    """Return the end of the parent; the other end finds it in the directory."""
    context, inbound, outbound = _sockets()
    inbound.bind(_address(directory, _TO_PARENT))
    outbound.bind(_address(directory, _TO_CHILD))
    return Channel(context, inbound, outbound)


def connect(directory: Path) -> Channel:
    """Return the end of the child."""
    context, inbound, outbound = _sockets()
    inbound.connect(_address(directory, _TO_CHILD))
    outbound.connect(_address(directory, _TO_PARENT))
    return Channel(context, inbound, outbound)


def _sockets() -> "tuple[zmq.Context[zmq.Socket[bytes]], zmq.Socket[bytes], zmq.Socket[bytes]]":
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    inbound, outbound = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    for each in (inbound, outbound):
        each.set_hwm(0)  # what may wait is limited where it is admitted
    return context, inbound, outbound


def _address(directory: Path, name: str) -> str:
    return f"ipc://{directory / name}"
