"""The core of the service: a thread that owns the device and evaluates batches.

A batch forms while the previous one runs, so there is no batching delay to tune. A free device
waits only for walkers that are known to return soon, and only if the wait pays (`holding`).
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Thread
from typing import Any

from twinforce_models.registry import LoadedModel
from twinforce_proto import DeadlineExceededError, ModelLoadError, ServiceError, UnavailableError
from twinforce_service.engine import evaluation
from twinforce_service.engine.answering import Answering
from twinforce_service.engine.lifecycle import Lifecycle, not_finished
from twinforce_service.engine.preparation import prepared
from twinforce_service.engine.pulse import NoPulse, Pulse
from twinforce_service.engine.report import BatchReport
from twinforce_service.engine.run_steps import run_steps_of
from twinforce_service.engine.runner import ActiveRun, Runner
from twinforce_service.engine.runs import Credit, Run
from twinforce_service.engine.turn import OwnDevice, Turn
from twinforce_service.engine.wakeup import EventWakeup, Wakeup
from twinforce_service.scheduling.batch_queue import BatchQueue, Taken
from twinforce_service.scheduling.budgets import Budgets
from twinforce_service.scheduling.holding import Holding
from twinforce_service.scheduling.request import Limits, Request, check_sizes
from twinforce_service.scheduling.time_limits import TimeLimits

logger = logging.getLogger(__name__)

# Number of batches to learn from together, unless a decision needs them earlier.
_MANY_BATCHES = 32


class ThreadEngine(Lifecycle):
    """An `Engine` whose device belongs to a thread of this process; safe to call in any thread.

    Args:
        load: Returns the models by name; called in the thread that owns the device.
        limits: Limits of the queue, of batches and of systems.
        on_batch: Called with the report of each batch, in the same thread, after its requests were
            completed.
        on_take: Called, in any thread, with the numbers of requests and atoms that have left the
            queue since the start.
        clock: Returns the time of deadlines, in s.
        wakeup: Wakes the thread that owns the device.
        turn: Right to use the device, for each batch.
        memory_share: Part of the memory of a GPU that the engine may use.
        pulse: Told when the evaluation of a batch begins and ends.
        watchdog: Time between two of its signs that is always allowed, in s.
    """

    def __init__(
        self,
        load: Callable[[], Mapping[str, LoadedModel]],
        limits: Limits | None = None,
        on_batch: Callable[[BatchReport], None] | None = None,
        on_take: Callable[[int, int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wakeup: Wakeup | None = None,
        turn: Turn | None = None,
        memory_share: float = 1.0,
        pulse: Pulse | None = None,
        watchdog: float = 0.0,
    ) -> None:
        self._load = load
        self._pulse: Pulse = pulse or NoPulse()
        self._time_limits = TimeLimits(watchdog)
        self._turn: Turn = turn or OwnDevice()
        self._memory_share = memory_share
        self._wakeup: Wakeup = wakeup or EventWakeup()
        self._limits = limits or Limits()
        super().__init__(self._limits.max_pairs_per_system)
        self._budgets = Budgets(self._limits)
        self._queue = BatchQueue(self._limits, self._budgets)
        self._holding = Holding(self._limits, self._budgets)
        self._runner = Runner()
        self._held_s = 0.0
        self._on_batch = on_batch
        self._on_take = on_take
        self._clock = clock
        self._evaluating: list[Request[Any]] = []
        self._thread = Thread(target=self.run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread that owns the device; it loads the models and warms them up."""
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        """Number of requests that wait for the device."""
        return self._queue.n_requests

    @property
    def n_waiting_atoms(self) -> int:
        """Number of atoms of the requests that wait for the device."""
        return self._queue.n_atoms

    def submit(self, requests: Sequence[Request[Any]]) -> None:
        """Accept all of the requests, or raise a `ServiceError` and accept none."""
        admission = self._admitting()
        check_sizes(requests, self._limits)
        admission.admit(requests)
        self.accept(requests)

    def accept(self, requests: Sequence[Request[Any]]) -> None:
        """Accept requests that another process has checked; otherwise the same as `submit`."""
        with self._changed:
            if self._is_closed:
                raise self._refusal()
            self._budgets.check(requests)
            retry_after = self._pace.retry_after(self._queue.n_atoms)
            now = self._clock()
            self._queue.extend(requests, now, retry_after)
            self._holding.note_requests(requests, now)
        self._wakeup.notify()

    def start_run(self, run: Run) -> Credit:
        """Accept a run, or raise a `ServiceError`; return the function that adds credit."""
        admission = self._admitting()
        active = ActiveRun.of(run, run_steps_of(run.request, admission.find), admission)
        requests = active.initial_requests()
        check_sizes(requests, self._limits)
        admission.admit(requests)
        with self._changed:
            if self._is_closed:
                raise self._refusal()
            self._budgets.check(requests)
            # Only one of the two kinds waits at a time.
            self._queue.check_room(requests[:1], self._pace.retry_after(self._queue.n_atoms))
            self._runner.begin(active)
        self._wakeup.notify()
        run.future.add_done_callback(lambda _: self._add_credit(active, 0))
        return partial(self._add_credit, active)

    def _add_credit(self, active: ActiveRun, n_more: int) -> None:
        """Let a run send more updates; 0 makes the runner notice that the run is over."""
        self._runner.add_credit(active, n_more)
        self._wakeup.notify()

    def drop_cancelled(self) -> None:
        """Remove canceled requests from the queue now, and not only when their turn comes."""
        with self._changed:
            self._queue.drop_cancelled()
            self._report_taken()

    def stop(self, timeout: float | None = None) -> None:
        """Accept no more requests, finish the accepted ones, and stop."""
        self._close()
        if self._thread.ident is None:
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._abandon(not_finished())

    def _close(self, failure: ServiceError | None = None) -> None:
        super()._close(failure)
        self._wakeup.notify()

    def _abandon(self, error: ServiceError) -> None:
        """Complete all requests and runs with this error."""
        with self._changed:
            abandoned = [*self._evaluating, *self._queue.clear()]
        for request in abandoned:
            request.fail(error)
        for run in self._runner.runs:
            run.fail(error)

    def run(self, on_ready: Callable[[], None] | None = None) -> None:
        """Own the device in the calling thread, instead of a thread of the engine, until `stop`.

        All futures complete, whatever ends the engine.

        Args:
            on_ready: Called when the engine accepts requests.
        """
        try:
            note_warm_up = self._time_limits.note_warm_up
            models = prepared(self._load, self._budgets, self._memory_share, note_warm_up)
            self._open(model.info for model in models.values())
            if on_ready is not None:
                on_ready()
            self._serve(models)
        except ModelLoadError as error:
            logger.info("a model could not be loaded", exc_info=error)
            self._close(error)
        except BaseException as error:
            logger.critical("the engine thread failed", exc_info=error)
            self._close(UnavailableError(f"the engine thread failed: {evaluation.summary(error)}"))
        finally:
            self._close()
            self._abandon(self._refusal())

    def _serve(self, models: Mapping[str, LoadedModel]) -> None:
        """Evaluate batches and advance runs until the engine is closed and has finished."""
        answering = Answering(
            models,
            self._limits,
            self._begin_batch,
            self._learn,
            self._note_out_of_memory,
            self._on_batch,
            self._clock,
            lambda: self.n_waiting_atoms,
        )
        while (taken := self._take()) is not None:
            for request in taken.expired:
                request.fail(_expired())
            if taken.batch:
                answering.complete(taken.batch, self._held_s)
            self._turn.end()
            self._pulse.rest()
            self._advance_runs()
            with self._changed:
                self._budgets.costs.learn(at_least=_MANY_BATCHES)

    def _take(self) -> Taken | None:
        """Wait for the next batch, or an empty one if runs can advance; None at the end."""
        with self._changed:
            self._evaluating = []
        self._wakeup.wait(0)  # receive what arrived during the last batch
        while True:
            if self._must_advance_runs():
                return Taken([], [])
            self._held_s = self._hold_back()
            if self._runner.is_due:  # runs that became due meanwhile may share the batch
                return Taken([], [])
            self._begin_turn()
            with self._changed:
                taken = self._queue.next_batch(self._clock())
                self._report_taken()
                if taken.batch or taken.expired:
                    self._evaluating = [*taken.batch, *taken.expired]
                    return taken
                if self._is_closed:
                    return None
            self._turn.end()
            self._wakeup.wait()

    def _begin_turn(self) -> None:
        """Wait for the device before the batch is formed, so that what arrives meanwhile joins."""
        if not len(self._queue):
            return
        self._pulse.rest(self._turn.patience)
        if self._turn.begin():
            self._wakeup.wait(0)

    def _must_advance_runs(self) -> bool:
        """Return True if runs can advance, or have to end."""
        return self._runner.is_due or (self._is_closed and len(self._runner) > 0)

    def _advance_runs(self) -> None:
        """Advance all runs of a batch together, and queue their next requests."""
        if self._is_closed:
            self._runner.end_all(self._refusal())
        if not self._runner.is_due:
            return
        requests = self._runner.advance()
        with self._changed:
            now = self._clock()
            self._queue.put_back(requests, now)
            self._holding.note_requests(requests, now)

    def _hold_back(self) -> float:
        """Let a free device wait for walkers if that pays; return the time it waited, in s."""
        started = now = self._clock()
        with self._changed:
            hold = self._holding.hold(self._queue.peek(), now)
        while hold is not None and hold.awaited and now < hold.until:
            if self._is_closed or self._queue.n_groups > 1 or self._runner.is_due:
                break
            self._wakeup.wait(hold.until - now)
            now = self._clock()
        return now - started

    def _report_taken(self) -> None:
        if self._on_take is not None:
            self._on_take(*self._queue.n_left)

    def _begin_batch(self, batch: Sequence[Request[Any]]) -> None:
        self._pulse.begin(batch, self._time_limits.begin(batch))

    def _learn(
        self, batch: Sequence[Request[Any]], report: BatchReport, now: float
    ) -> Sequence[float]:
        """Learn from a batch before its requests complete, because clients may return at once.

        Returns:
            Device time of each request, in s.
        """
        self._time_limits.end(report.compute_s)
        with self._changed:
            device_s = self._queue.charge(batch, report.compute_s)
            self._pace.note(report)
            if not (report.n_rows or batch[0].is_suspect):
                self._holding.note_batch(batch, report.compute_s, now)
            return device_s

    def _note_out_of_memory(self, batch: Sequence[Request[Any]]) -> None:
        with self._changed:
            self._budgets.note_out_of_memory(batch)


def _expired() -> DeadlineExceededError:
    return DeadlineExceededError("the deadline passed before the system was evaluated")
