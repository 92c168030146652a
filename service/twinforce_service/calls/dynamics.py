"""Move systems with an engine and yield the updates of each run."""

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
from twinforce_service.callers.allowances import Allowances
from twinforce_service.context import caller, connection, request_id, trace, urgency
from twinforce_service.engine.engine import Engine
from twinforce_service.engine.runs import Run, Update, origin_of
from twinforce_service.scheduling.request import Walker

# Seconds after which refused clients are advised to try again.
_RETRY_AFTER = 5.0
# Updates that may be sent before the client has taken one: the next is computed meanwhile.
_CREDIT = 2
# Number of finished runs whose walkers, and so whose neighbor lists, can be resumed.
_MAX_FINISHED = 1024

_Received: TypeAlias = "tuple[Update, bool] | ServiceError"


class Dynamics:
    """Moves systems with an engine and yields the updates of each run.

    The evaluations of each step wait in the queue of the engine like any request, so that the
    runs of different clients share batches. At most a few updates are computed ahead of those that
    the client has taken, and none after it has gone.

    Args:
        engine: Moves the systems.
        max_running: Number of runs that may be active at the same time.
        max_steps: Number of inner steps that one run may take.
        allowances: Refuses what exceeds the limits of the caller.
    """

    def __init__(
        self, engine: Engine, max_running: int, max_steps: int, allowances: Allowances
    ) -> None:
        self._allowances = allowances
        self._engine = engine
        self._max_running = max_running
        self._max_steps = max_steps
        self._n_running = 0
        # The walker id of each finished run, by the hash of its last checkpoint.
        self._finished: OrderedDict[int, str] = OrderedDict()

    @property
    def n_running(self) -> int:
        """Number of active runs."""
        return self._n_running

    async def propagate(
        self, request: PropagateRequest, timeout: float | None
    ) -> AsyncGenerator[Snapshot, None]:
        """Propagate a system and yield its snapshots, beginning with a start but not a checkpoint.

        Args:
            request: System and number of steps.
            timeout: Seconds that the whole run may take; None means no limit.

        Raises:
            ServiceError: The request is invalid, an evaluation failed, or the timeout has passed.
        """
        field, n_steps = "n_steps", request.n_steps
        self._check_limits(field, n_steps)
        async with aclosing(self._allowed(request, timeout, field, n_steps)) as updates:
            async for update in updates:
                yield cast(Snapshot, update)

    async def relax(
        self, request: RelaxRequest, timeout: float | None
    ) -> AsyncGenerator[Relaxed, None]:
        """Relax a system and yield a report at each interval and at the end.

        Arguments and errors are those of `propagate`.
        """
        field, n_steps = "max_steps", request.max_steps
        self._check_limits(field, n_steps)
        async with aclosing(self._allowed(request, timeout, field, n_steps)) as updates:
            async for update in updates:
                yield cast(Relaxed, update)

    def _check_limits(self, field: str, n_steps: int) -> None:
        if n_steps > self._max_steps:
            expected = f"at most {self._max_steps} in one call"
            raise InvalidRequestError.expected(field, expected, n_steps)
        if self._n_running >= self._max_running:
            text = f"{self._max_running} systems are already being moved; try again later"
            raise OverloadedError(text, retry_after=_RETRY_AFTER)

    async def _allowed(
        self,
        request: PropagateRequest | RelaxRequest,
        timeout: float | None,
        field: str,
        n_steps: int,
    ) -> AsyncGenerator[Update, None]:
        """Yield the updates of a run that its caller is allowed, and give back unused steps."""
        first, n_atoms = origin_of(request)
        # Steps that may have been taken beyond the last update: all, if none comes in between.
        beyond = (_CREDIT + 1) * request.interval or n_steps
        taken = 0
        with self._allowances.run(caller.get(), n_atoms, n_steps, field) as give_back:
            try:
                async with aclosing(self._updates(request, timeout)) as updates:
                    async for update in updates:
                        taken = update.step - first
                        yield update
                    beyond = 0
            except ServiceError:  # what was not delivered does not count
                beyond = 0
                raise
            finally:
                give_back(n_steps - min(taken + beyond, n_steps))

    async def _updates(
        self, request: PropagateRequest | RelaxRequest, timeout: float | None
    ) -> AsyncGenerator[Update, None]:
        receiver = _UpdateReceiver(request, timeout, self._walker_for(request))
        update: Update | None = None
        is_last = False
        self._n_running += 1
        try:
            add_credit = self._engine.start_run(receiver.run)
            while not is_last:
                update, is_last = await receiver.next()
                yield update
                if not is_last:
                    add_credit(1)
        finally:
            self._n_running -= 1
            receiver.run.future.cancel()
            self._remember(receiver.run.walker, update)

    def _walker_for(self, request: PropagateRequest | RelaxRequest) -> Walker:
        """Return the walker of the run whose checkpoint is resumed, otherwise a new one."""
        origin = getattr(request, "origin", None)
        known = self._finished.pop(hash(origin), None) if isinstance(origin, bytes) else None
        return Walker() if known is None else Walker(known)

    def _remember(self, walker: Walker, last: Update | None) -> None:
        """Remember the walker, in case that a client resumes from the last checkpoint."""
        if isinstance(last, Snapshot):
            self._finished[hash(last.checkpoint)] = walker.id
            if len(self._finished) > _MAX_FINISHED:
                self._finished.popitem(last=False)


class _UpdateReceiver:
    """Receives the updates of a run, which come from any thread, in the event loop.

    Args:
        request: System and number of steps.
        timeout: Seconds that the whole run may take; None means no limit.
        walker: Walker that moves.
    """

    def __init__(
        self, request: PropagateRequest | RelaxRequest, timeout: float | None, walker: Walker
    ) -> None:
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._received: asyncio.Queue[_Received] = asyncio.Queue()
        self.run = Run(
            request,
            lambda update, is_last: self._put((update, is_last)),
            _CREDIT,
            deadline=None if timeout is None else time.monotonic() + timeout,
            request_id=request_id.get(),
            walker=walker,
            urgency=urgency.get(),
            caller=caller.get(),
            connection=connection.get(),
            trace=trace.get(),
        )
        self.run.future.add_done_callback(self._note_end)

    async def next(self) -> tuple[Update, bool]:
        """Return the next update, and True if it is the last.

        Raises:
            ServiceError: The run has failed, or its deadline has passed.
        """
        deadline = self.run.deadline
        if deadline is None:
            received = await self._received.get()
        else:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    received = await self._received.get()
            except TimeoutError as error:
                raise DeadlineExceededError("the deadline passed before the last step") from error
        if isinstance(received, ServiceError):
            raise received
        return received

    def _put(self, received: _Received) -> None:
        if threading.get_ident() == self._thread:
            self._received.put_nowait(received)
            return
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._received.put_nowait, received)

    def _note_end(self, future: "Future[None]") -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            self._put(cast(ServiceError, error))
