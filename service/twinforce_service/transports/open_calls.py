"""The calls of gRPC that are being answered, and the streams that wait for messages."""

import asyncio
from typing import Any

import grpc

from twinforce_service.engine.lifecycle import shutting_down
from twinforce_service.transports.grpc_errors import abort


class OpenCalls:
    """The calls that are being answered; each is counted within `with open_calls:`.

    A message of a stream is one call, as the stream itself may stay open forever.
    """

    def __init__(self) -> None:
        self._n_calls = 0
        self._is_idle = asyncio.Event()
        self._draining = asyncio.Event()
        self._readers: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> None:
        self._n_calls += 1

    def __exit__(self, *_: object) -> None:
        self._n_calls -= 1
        if not self._n_calls and self._draining.is_set():
            self._is_idle.set()

    async def read(self, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Return the next message of a stream, unless the service stops first."""
        if self._draining.is_set():
            await abort(context, shutting_down())
        reader = asyncio.current_task()
        assert reader is not None
        self._readers.add(reader)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if not self._draining.is_set():
                raise
            reader.uncancel()
            await abort(context, shutting_down())
        finally:
            self._readers.discard(reader)

    async def drain(self, timeout: float) -> None:
        """End idle streams, and wait at most `timeout` s for the calls that are being answered."""
        self._draining.set()
        for reader in self._readers:
            reader.cancel()
        if not self._n_calls:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._is_idle.wait()
        except TimeoutError:
            return
