"""Who reads what an engine process says: an event loop, or a thread that waits for nothing else."""

import asyncio
import contextlib
import select
import socket
import threading
from collections.abc import Callable

from twinforce_service.channel import Channel

# How often it is looked whether the event loop has been closed, in s.
_WATCH_INTERVAL = 1.0
_MANY = 4096


class Listening:
    """Attends to a channel until there is nothing more to come.

    Args:
        channel: What is listened to; what it has not sent is sent when there is room.
        attend: Does what has come; returns whether that was all. Never called twice at a time.
        loop: Calls `attend`, so that no other thread is woken; None: whoever calls `run` does.
    """

    def __init__(
        self,
        channel: Channel,
        attend: Callable[[], bool],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._channel = channel
        self._attend = attend
        self._loop = loop
        self._is_over = threading.Event()
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Return when all has come, and was attended to; raise what `attend` did."""
        if self._loop is not None:
            self._run_in(self._loop)
        if not self._is_over.is_set():
            self._run_here()
        if self._failure is not None:
            raise self._failure

    def _run_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Return when all has come, or the event loop is closed."""
        self._channel.on_unsent = lambda: _soon(loop, self._flush_in, loop)
        _soon(loop, loop.add_reader, self._channel.fileno(), self._attend_in, loop)
        while not (self._is_over.wait(_WATCH_INTERVAL) or loop.is_closed()):
            pass

    def _attend_in(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            is_over = self._attend()
        except BaseException as failure:
            self._failure, is_over = failure, True
        if is_over:  # nothing more is called before the thread that waits closes the channel
            loop.remove_reader(self._channel.fileno())
            loop.remove_writer(self._channel.fileno())
            self._is_over.set()

    def _flush_in(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._is_over.is_set():
            return
        if self._channel.flush():
            loop.remove_writer(self._channel.fileno())
        else:
            loop.add_writer(self._channel.fileno(), self._flush_in, loop)

    def _run_here(self) -> None:
        woken, wake = socket.socketpair()
        with woken, wake:
            wake.setblocking(False)
            self._channel.on_unsent = lambda: _wake(wake)
            poll = select.poll()
            poll.register(woken, select.POLLIN)
            while not self._is_over.is_set():
                to_send = select.POLLOUT if self._channel.has_unsent else 0
                poll.register(self._channel, select.POLLIN | to_send)
                ready = dict(poll.poll())
                if woken.fileno() in ready:
                    woken.recv(_MANY)
                if ready.get(self._channel.fileno(), 0) & select.POLLOUT:
                    self._channel.flush()
                if self._channel.fileno() in ready and self._attend():
                    self._is_over.set()


def _wake(sleeping: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is over, or has been woken more often than it looked
        sleeping.send(b"\0")


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # it is closed
        loop.call_soon_threadsafe(call, *arguments)
