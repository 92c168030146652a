"""Requests on their way to an engine process: those of one turn of an event loop as one message."""

import asyncio
import contextlib
import logging
import select
import socket
import threading
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

from twinforce_proto import ServiceError
from twinforce_service.process import messages
from twinforce_service.process.channel import Channel, Frame
from twinforce_service.scheduling.request import Request

logger = logging.getLogger(__name__)


class RequestSender:
    """What is said to one process, in the order in which it was said; safe to call from any thread.

    Args:
        channel: To the process.
        loop: What is submitted in it leaves at its next turn; None: all leaves at once.
    """

    def __init__(self, channel: Channel, loop: asyncio.AbstractEventLoop | None) -> None:
        self._channel = channel
        self._loop = loop
        self._sending = Lock()
        self._requests: list[tuple[int, Request[Any]]] = []

    def submit(self, requests: Sequence[tuple[int, Request[Any]]]) -> None:
        """Send requests, each with the number that its answer will carry."""
        with self._sending:
            self._requests += requests
            if self._loop is None or not _is_running(self._loop):
                self._send_requests()
            elif len(self._requests) == len(requests):
                self._loop.call_soon(self._flush)

    def say(self, frames: Sequence[Frame]) -> None:
        """Send any other message."""
        with self._sending:
            self._send_requests()
            self._channel.send(frames)

    def _flush(self) -> None:
        with self._sending:
            self._send_requests()

    def _send_requests(self) -> None:
        requests, self._requests = self._requests, []
        if not requests:
            return
        try:
            frames = messages.requests_to_frames(requests)
        except Exception as error:
            self._refuse(requests, error)
        else:
            self._channel.send(frames)

    def _refuse(self, requests: Sequence[tuple[int, Request[Any]]], error: Exception) -> None:
        """Send one by one what cannot be said together, and fail what cannot be said at all."""
        if len(requests) == 1:
            logger.error("a request cannot be sent to its engine", exc_info=error)
            failed = ServiceError("internal error; the logs of the service say more")
            requests[0][1].fail(failed)
            return
        for each in requests:
            self._requests = [each]
            self._send_requests()


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether this is called by the loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


# How often it is looked whether the event loop has been closed, in s.
_WATCH_INTERVAL = 1.0


_MANY = 4096


class ChannelReader:
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
