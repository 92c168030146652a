"""The connection of an asyncio client in one event loop."""

import asyncio
import os
import weakref
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from twinforce._transports.transport import AsyncConnection, AsyncTransport
from twinforce_proto.codec.stream import StreamEncoder

T = TypeVar("T")


class LoopConnection:
    """The connection of a client in one event loop, which is closed before the loop is.

    Sockets and calls of asyncio belong to a loop and cannot be closed after it. So the connection
    is held by an asynchronous generator, since `asyncio.run` closes these before it closes the
    loop. Nothing else keeps it alive.

    Args:
        connect: Function that makes a connection.
    """

    def __init__(self, connect: Callable[[], AsyncConnection]) -> None:
        self._connect = connect
        self._holder: AsyncGenerator[AsyncConnection, None] | None = None
        self._held: Callable[[], AsyncConnection | None] = lambda: None
        self.turns: WeakKeyDictionary[object, Turns] = WeakKeyDictionary()

    async def get(self) -> AsyncConnection:
        """Return the connection, and make it if there is none that is open."""
        if (connection := self._held()) is None:
            self._holder = _hold(self._connect, self.turns)
            connection = await anext(self._holder)
            self._held = weakref.ref(connection)
        return connection

    def turns_of(self, stream: object) -> "Turns":
        """Return the state of a stream in this loop."""
        return self.turns.setdefault(stream, Turns())

    async def close(self) -> None:
        """Close the connection."""
        if self._holder is not None:
            await self._holder.aclose()


class Turns:
    """The state of a stream in one event loop, and the lock of the task whose turn it is."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.n_closed = 0
        self.walker: tuple[StreamEncoder, AsyncTransport] | None = None


async def _hold(
    connect: Callable[[], AsyncConnection], turns: WeakKeyDictionary[object, Turns]
) -> AsyncGenerator[AsyncConnection, None]:
    pid = os.getpid()
    connection = connect()
    try:
        yield connection
    finally:
        if os.getpid() == pid:
            turns.clear()
            await connection.close()


class IterationInLoop(Generic[T]):
    """A context that closes an iterator, if this is the loop that it belongs to.

    A loop that ends closes all iterators at once, those within others too. So it is no error if
    one is being closed already.

    Args:
        iterator: The iterator.
    """

    def __init__(self, iterator: AsyncGenerator[T, None]) -> None:
        self._iterator = iterator
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> AsyncGenerator[T, None]:
        return self._iterator

    async def __aexit__(self, *_: object) -> None:
        with suppress(RuntimeError):  # also raised if no loop runs any more
            if asyncio.get_running_loop() is self._loop:
                await self._iterator.aclose()


async def close_in(loop: AbstractEventLoop, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close something that belongs to a loop; do not wait if that is not the running one."""
    if loop is asyncio.get_running_loop():
        await close()
    else:
        with suppress(RuntimeError):  # the loop was closed in the meantime
            # The coroutine is made over there, so that a loop that stands still leaves none unused.
            loop.call_soon_threadsafe(lambda: loop.create_task(close()))
