"""Read a channel until it ends, in an event loop or in a thread."""

import asyncio
import contextlib
import select
import socket
import threading
from collections.abc import Callable

from twinforce_service.process.channel import Channel

# Seconds between checks for a closed event loop, and for an end that the owner wants.
_CHECK_INTERVAL = 0.25
_MAX_WAKEUPS = 4096


class ChannelReader:
    """A reader that calls a function whenever a channel has something to receive.

    Args:
        channel: The channel to read; its unsent bytes are sent when there is room.
        receive: Receives what has arrived, and returns True at the end. Calls never overlap.
        loop: Event loop that calls `receive`, so that no other thread is woken; None calls it in
            the thread of `run`.
        is_over: Called a few times per second in the thread of `run`; True ends the reading, even
            if the other end stays silent.
    """

    def __init__(
        self,
        channel: Channel,
        receive: Callable[[], bool],
        loop: asyncio.AbstractEventLoop | None = None,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._channel = channel
        self._receive = receive
        self._shall_end = is_over
        self._loop = loop
        self._is_over = threading.Event()
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Return at the end of the channel; raise any exception of `receive`."""
        if self._loop is not None:
            self._run_in(self._loop)
        if not self._is_over.is_set():
            self._run_here()
        if self._failure is not None:
            raise self._failure

    def _run_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Return at the end of the channel, or when the event loop is closed."""
        self._channel.on_unsent = lambda: _call_in(loop, self._flush_in, loop)
        _call_in(loop, loop.add_reader, self._channel.fileno(), self._receive_in, loop)
        while not (self._is_over.wait(_CHECK_INTERVAL) or loop.is_closed()):
            if self._shall_end():
                _call_in(loop, self._leave, loop)

    def _receive_in(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            is_over = self._receive()
        except BaseException as failure:
            self._failure, is_over = failure, True
        if is_over:
            self._leave(loop)

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """End: the loop calls nothing more before the waiting thread closes the channel."""
        if not self._is_over.is_set():
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
                ready = dict(poll.poll(_CHECK_INTERVAL * 1000))
                if self._shall_end():
                    break
                if woken.fileno() in ready:
                    woken.recv(_MAX_WAKEUPS)
                if ready.get(self._channel.fileno(), 0) & select.POLLOUT:
                    self._channel.flush()
                if self._channel.fileno() in ready and self._receive():
                    self._is_over.set()


def _wake(wake: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the reader has ended, or has many wakeups pending
        wake.send(b"\0")


def _call_in(
    loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(call, *arguments)
