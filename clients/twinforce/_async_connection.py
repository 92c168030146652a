"""The connection of an asyncio client in one event loop."""

import asyncio
import os
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from types import AsyncGeneratorType
from typing import Any, cast

from twinforce._transports.transport import AsyncConnection


class LoopConnection:
    """The connection of a client in one event loop, which is closed before the loop is.

    Sockets and calls of asyncio belong to a loop and cannot be closed after it. So the connection
    is held by an asynchronous generator, since `asyncio.run` closes these before it closes the
    loop.

    Args:
        connect: Function that makes a connection.
    """

    def __init__(self, connect: Callable[[], AsyncConnection]) -> None:
        self._connect = connect
        self._holder: AsyncGeneratorType[AsyncConnection, None] | None = None
        self._connection: AsyncConnection | None = None

    async def get(self) -> AsyncConnection:
        """Return the connection, and make it if there is none that is open."""
        if self._connection is None or self._holder is None or self._holder.ag_frame is None:
            self._holder = cast(AsyncGeneratorType[AsyncConnection, None], _hold(self._connect))
            self._connection = await anext(self._holder)
        return self._connection

    async def close(self) -> None:
        """Close the connection."""
        if self._holder is not None:
            await self._holder.aclose()


async def _hold(
    connect: Callable[[], AsyncConnection],
) -> AsyncGenerator[AsyncConnection, None]:
    pid = os.getpid()
    connection = connect()
    try:
        yield connection
    finally:
        if os.getpid() == pid:
            await connection.close()


async def close_in(loop: AbstractEventLoop, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close something that belongs to a loop; do not wait if that is not the running one."""
    if loop is asyncio.get_running_loop():
        await close()
    else:
        with suppress(RuntimeError):  # the loop was closed in the meantime
            # The coroutine is made over there, so that a loop that stands still leaves none unused.
            loop.call_soon_threadsafe(lambda: loop.create_task(close()))
