"""The health service of gRPC, whose watches end when the server stops."""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2


class HealthService(health.aio.HealthServicer):  # type: ignore[misc]
    """The standard health service; a watch would keep the server from stopping otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self._watches: set[asyncio.Task[Any]] = set()
        self._is_ending = False

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> None:
        """Send the status whenever it changes, until `end_watches` or the client goes."""
        watch = asyncio.current_task()
        assert watch is not None
        self._watches.add(watch)
        try:
            await super().Watch(request, context)
        except asyncio.CancelledError:
            if not self._is_ending:
                raise
            watch.uncancel()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the service is shutting down")
        finally:
            self._watches.discard(watch)

    def end_watches(self) -> None:
        """End all watches."""
        self._is_ending = True
        for watch in self._watches:
            watch.cancel()
