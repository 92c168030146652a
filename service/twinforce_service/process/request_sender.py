"""Send requests to an engine process, those of one turn of an event loop as one message."""

import asyncio
import logging
from collections.abc import Sequence
from threading import Lock
from typing import Any

from twinforce_service.logs import internal_error
from twinforce_service.process.channel import Channel, Frame
from twinforce_service.process.request_messages import requests_to_frames
from twinforce_service.scheduling.request import Request

logger = logging.getLogger(__name__)


class RequestSender:
    """The messages to one process, in order; safe to call in any thread.

    Args:
        channel: Channel to the process.
        loop: Event loop whose requests are sent together at its next turn; None sends each
            request immediately.
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

    def send(self, frames: Sequence[Frame]) -> None:
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
            frames = requests_to_frames(requests)
        except Exception as error:
            self._isolate(requests, error)
        else:
            self._channel.send(frames)

    def _isolate(self, requests: Sequence[tuple[int, Request[Any]]], error: Exception) -> None:
        """Send requests one by one, and fail those that cannot be encoded."""
        if len(requests) == 1:
            logger.error("a request cannot be sent to its engine", exc_info=error)
            requests[0][1].fail(internal_error())
            return
        for numbered in requests:
            self._requests = [numbered]
            self._send_requests()


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Return True if the loop is running in this thread."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
