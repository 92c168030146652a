"""Dynamics beside the model: walkers that the engine moves while their callers read along."""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from contextlib import aclosing, suppress
from typing import TypeAlias, cast

from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.requests import PropagateRequest, RelaxRequest
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import (
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    ServiceError,
)
from twinforce_service.context import request_id, urgency
from twinforce_service.engine.engine import Engine
from twinforce_service.engine.runs import Run, Update
from twinforce_service.scheduling.request import Walker

# What a caller is advised to wait where too many walkers are under way, in s.
_RETRY_AFTER = 5.0
# Milestones that are computed ahead of the one that a caller has taken: while one is written.
_CREDIT = 2
# Walkers that are known again when they go on, and so find their neighbor list.
_MAX_RESTING = 1024

_Told: TypeAlias = "tuple[Update, bool] | ServiceError"


class Dynamics:
    """Has systems moved by an engine, and hands on what it tells of them.

    What a step needs evaluated waits in the queue of the engine like any system, so that walkers
    of different callers share batches. Hardly anything is computed ahead of the snapshot that a
    caller has taken, and nothing after a caller has gone.

    Args:
        engine: What moves them.
        max_running: Walkers that are under way at the same time.
        max_steps: Inner steps of one call.
    """

    def __init__(self, engine: Engine, max_running: int, max_steps: int) -> None:
        self._engine = engine
        self._max_running = max_running
        self._max_steps = max_steps
        self._n_running = 0
        # Where walkers have stopped: the hash of their last checkpoint, and who it was.
        self._resting: OrderedDict[int, str] = OrderedDict()

    @property
    def n_running(self) -> int:
        """How many walkers are under way."""
        return self._n_running

    async def snapshots(
        self, wanted: PropagateRequest, timeout: float | None
    ) -> AsyncGenerator[Snapshot, None]:
        """Move a system; yield what is to be seen of it, and its start first unless it goes on.

        Args:
            wanted: What moves, and how far.
            timeout: How long the caller waits for all of it, in s; None: until it goes away.

        Raises:
            ServiceError: What was asked for makes no sense, an evaluation failed, or time was up.
        """
        self._check_room("n_steps", wanted.n_steps)
        async with aclosing(self._updates(wanted, timeout)) as updates:
            async for update in updates:
                yield cast(Snapshot, update)

    async def relaxations(
        self, wanted: RelaxRequest, timeout: float | None
    ) -> AsyncGenerator[Relaxed, None]:
        """Relax a system; yield how far that is at each interval, and at the end.

        Arguments and errors are those of `snapshots`.
        """
        self._check_room("max_steps", wanted.max_steps)
        async with aclosing(self._updates(wanted, timeout)) as updates:
            async for update in updates:
                yield cast(Relaxed, update)

    def _check_room(self, field: str, n_steps: int) -> None:
        if n_steps > self._max_steps:
            raise InvalidRequestError.expected(
                field, f"at most {self._max_steps} in one call", n_steps
            )
        if self._n_running >= self._max_running:
            text = f"{self._max_running} systems are already on the move; try again later"
            raise OverloadedError(text, retry_after=_RETRY_AFTER)

    async def _updates(
        self, wanted: PropagateRequest | RelaxRequest, timeout: float | None
    ) -> AsyncGenerator[Update, None]:
        updates = _UpdateQueue(wanted, timeout, self._walker(wanted))
        update: Update | None = None
        is_last = False
        self._n_running += 1
        try:
            add_credit = self._engine.start_run(updates.run)
            while not is_last:
                update, is_last = await updates.next()
                yield update
                if not is_last:
                    add_credit(1)
        finally:
            self._n_running -= 1
            updates.run.future.cancel()
            self._note_rest(updates.run.walker, update)

    def _walker(self, wanted: PropagateRequest | RelaxRequest) -> Walker:
        """Return who moves: the same as before, if it goes on where one has stopped."""
        origin = getattr(wanted, "origin", None)
        known = self._resting.pop(hash(origin), None) if isinstance(origin, bytes) else None
        return Walker() if known is None else Walker(known)

    def _note_rest(self, walker: Walker, last: Update | None) -> None:
        """Remember where a walker has stopped."""
        if isinstance(last, Snapshot):
            self._resting[hash(last.checkpoint)] = walker.id
            if len(self._resting) > _MAX_RESTING:
                self._resting.popitem(last=False)


class _UpdateQueue:
    """A journey as the event loop sees it.

    Args:
        wanted: What moves, and how far.
        timeout: How long the caller waits for all of it, in s; None: until it goes away.
        walker: Who moves.
    """

    def __init__(
        self, wanted: PropagateRequest | RelaxRequest, timeout: float | None, walker: Walker
    ) -> None:
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._told: asyncio.Queue[_Told] = asyncio.Queue()
        deadline = None if timeout is None else time.monotonic() + timeout
        self.run = Run(
            wanted,
            lambda update, is_last: self._tell((update, is_last)),
            _CREDIT,
            deadline,
            request_id.get(),
            walker,
            urgency.get(),
        )
        self.run.future.add_done_callback(self._note_end)

    async def next(self) -> tuple[Update, bool]:
        """Return the next milestone, and whether it is the last.

        Raises:
            ServiceError: It has ended before, or time was up.
        """
        deadline = self.run.deadline
        if deadline is None:
            told = await self._told.get()
        else:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    told = await self._told.get()
            except TimeoutError as error:
                raise DeadlineExceededError("the deadline passed before the last step") from error
        if isinstance(told, ServiceError):
            raise told
        return told

    def _tell(self, told: _Told) -> None:
        if threading.get_ident() == self._thread:
            self._told.put_nowait(told)
            return
        with suppress(RuntimeError):  # the event loop has ended, and nobody listens
            self._loop.call_soon_threadsafe(self._told.put_nowait, told)

    def _note_end(self, future: "Future[None]") -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            self._tell(cast(ServiceError, error))
