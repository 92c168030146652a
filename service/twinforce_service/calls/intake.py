"""The intake of calls, which the service closes before it stops."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from twinforce_service.engine.lifecycle import shutting_down

_Received = TypeVar("_Received")

# The calls that have arrived have begun if none has begun during this many rounds: a pause of so
# many s, and a probe.
_N_ROUNDS, _PAUSE = 3, 0.01


class Intake:
    """The intake of calls: open until the service stops.

    A transport takes calls one by one from those that have arrived. If it stopped while some are
    left, their clients would read that they had canceled their calls. So the service stops in an
    order: it announces that it is closing, takes every call that has arrived, refuses connections,
    and only then finishes the calls. Calls whose bodies have not arrived by then are refused.
    """

    def __init__(self) -> None:
        self._uploads: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        self._n_begun = 0
        self._is_closing = False
        self._may_reply = asyncio.Event()
        self._may_reply.set()

    @property
    def is_closing(self) -> bool:
        """True from the moment when the service begins to stop."""
        return self._is_closing

    def note_call(self) -> None:
        """Note that a call has begun."""
        self._n_begun += 1

    async def may_reply(self) -> None:
        """Return once a connection may be told the outcome of its call.

        Clients that call again as soon as they are answered would keep the intake from closing.
        """
        await self._may_reply.wait()

    async def upload(self, receive: Callable[[], Awaitable[_Received]]) -> _Received:
        """Return the next part of the body of a call.

        Raises:
            UnavailableError: The service takes no more calls.
        """
        task = asyncio.current_task()
        assert task is not None
        self._uploads.add(task)
        try:
            if not self._is_closed:
                return await receive()
        except asyncio.CancelledError:
            if task in self._uploads:  # the task itself was canceled
                raise
            task.uncancel()
        finally:
            self._uploads.discard(task)
        raise shutting_down()

    async def settle(self, probe: Callable[[], Awaitable[None]], timeout: float) -> None:
        """Announce that the service stops, and return once all calls that have arrived have begun.

        Args:
            probe: Returns when calls that arrived before it was called have begun.
            timeout: Seconds after which it returns even if calls keep coming.
        """
        self._is_closing = True
        self._may_reply.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._quiet(probe)

    def close(self) -> None:
        """Let the outcomes of calls be told, now that their connections take no more calls."""
        self._is_closed = True
        self._may_reply.set()
        while self._uploads:
            self._uploads.pop().cancel()

    async def _quiet(self, probe: Callable[[], Awaitable[None]]) -> None:
        n_quiet, n_before = 0, self._n_begun
        while n_quiet < _N_ROUNDS:
            await asyncio.sleep(_PAUSE)
            await probe()
            n_quiet = n_quiet + 1 if self._n_begun == n_before else 0
            n_before = self._n_begun
