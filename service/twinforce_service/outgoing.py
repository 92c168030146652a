"""Requests on their way to an engine process: those of one turn of an event loop as one message."""

import asyncio
import logging
from collections.abc import Sequence
from threading import Lock
from typing import Any

from twinforce_proto import ServiceError
from twinforce_service import wire
from twinforce_service.batching import Request
from twinforce_service.channel import Channel, Frame

logger = logging.getLogger(__name__)


class Outgoing:
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
            frames = wire.requests_to_frames(requests)
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
