"""The core of the service: one thread that owns the device and evaluates batches.

A batch forms while the previous one runs, so there is no batching delay to tune. A free device
waits only for walkers that are known to be on their way, and only where that pays (`holding`).
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from threading import Condition, Thread
from typing import Any

from twinforce_models.registry import LoadedModel
from twinforce_proto import (
    DeadlineExceededError,
    ModelInfo,
    ModelLoadError,
    ServiceError,
    UnavailableError,
)
from twinforce_service.engine import evaluation, loading
from twinforce_service.engine.answering import Answering
from twinforce_service.engine.report import BatchReport, Pace
from twinforce_service.engine.run_steps import run_steps_of
from twinforce_service.engine.runner import ActiveRun, Runner
from twinforce_service.engine.runs import Credit, Run
from twinforce_service.engine.wakeup import EventWakeup, Wakeup
from twinforce_service.scheduling import budgets
from twinforce_service.scheduling.admission import Admission
from twinforce_service.scheduling.batch_queue import BatchQueue, Taken
from twinforce_service.scheduling.budgets import Budgets
from twinforce_service.scheduling.holding import Holding
from twinforce_service.scheduling.request import Limits, Request, check_sizes

logger = logging.getLogger(__name__)

# So many batches are learned from together, if nothing was to be decided before.
_MANY_BATCHES = 32


class ThreadEngine:
    """An `Engine` whose device belongs to a thread of this process; safe to call from any.

    Args:
        load: Gives the models, under the names they are served by; called in the thread that
            owns the device.
        limits: How much may wait, and how much is evaluated at once.
        on_batch: Told of each batch, in the same thread, after its requests were completed.
        on_take: Told, in any thread, how many requests have left the queue since the start, and how
            many atoms they had.
        clock: In s; deadlines are told on it.
        bell: Rung when there is something to do, and waited at in the thread that owns the device.
    """

    def __init__(
        self,
        load: Callable[[], Mapping[str, LoadedModel]],
        limits: Limits | None = None,
        on_batch: Callable[[BatchReport], None] | None = None,
        on_take: Callable[[int, int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wakeup: Wakeup | None = None,
    ) -> None:
        self._load = load
        self._wakeup: Wakeup = wakeup or EventWakeup()
        self._limits = limits or Limits()
        self._budgets = Budgets(self._limits)
        self._queue = BatchQueue(self._limits, self._budgets)
        self._holding = Holding(self._limits, self._budgets)
        self._runner = Runner()
        self._held_s = 0.0
        self._on_batch = on_batch
        self._on_take = on_take
        self._clock = clock
        self._changed = Condition()
        self._loaded: Mapping[str, LoadedModel] = {}
        self._models: Mapping[str, ModelInfo] = {}
        self._admission: Admission | None = None
        self._running: list[Request[Any]] = []
        self._is_closed = False
        self._failure: ServiceError | None = None
        self._pace = Pace()
        self._thread = Thread(target=self.run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread that owns the device; it loads the models and warms them up."""
        self._thread.start()

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Return when requests are accepted.

        Raises:
            ModelLoadError: A model could not be loaded or evaluated.
            UnavailableError: It was stopped first, or `timeout` s have passed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._admission or self._is_closed, timeout)
            if not self.is_ready:
                raise self._refusal()

    @property
    def failure(self) -> ServiceError | None:
        """Why it has ended, if not because it was told to."""
        return self._failure

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """What each served model declares, under its name; empty while they are loaded."""
        return self._models

    @property
    def is_ready(self) -> bool:
        """Whether requests are accepted."""
        return self._admission is not None and not self._is_closed

    @property
    def is_alive(self) -> bool:
        """Whether it may become ready, is, or was until it was told to stop."""
        return self._failure is None

    @property
    def n_waiting(self) -> int:
        """How many requests wait for the device."""
        return self._queue.n_requests

    @property
    def n_waiting_atoms(self) -> int:
        """How many atoms they have."""
        return self._queue.n_atoms

    def find(self, model: str) -> ModelInfo:
        """Return what a model declares, or raise `UnknownModelError` or `UnavailableError`."""
        return self._admitting().find(model)

    def submit(self, requests: Sequence[Request[Any]]) -> None:
        """Accept all of the requests, or raise a `ServiceError` and accept none."""
        admission = self._admitting()
        check_sizes(requests, self._limits)
        admission.admit(requests)
        self.accept(requests)

    def accept(self, requests: Sequence[Request[Any]]) -> None:
        """As `submit`, what was admitted elsewhere."""
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
        """Accept a journey, or raise a `ServiceError`; return what lets it tell more."""
        admission = self._admitting()
        active = ActiveRun.of(run, run_steps_of(run.wanted, admission.find), admission)
        firsts = active.firsts()
        check_sizes(firsts, self._limits)
        admission.admit(firsts)
        with self._changed:
            if self._is_closed:
                raise self._refusal()
            self._budgets.check(firsts)
            self._queue.check_room(firsts[:1], self._pace.retry_after(self._queue.n_atoms))
            self._runner.begin(active)
        self._wakeup.notify()
        run.future.add_done_callback(lambda _: self._wake(active, 0))
        return partial(self._wake, active)

    def _wake(self, active: ActiveRun, n_more: int) -> None:
        """Grant a walker so many more milestones, or notice that its journey is over."""
        self._runner.add_credit(active, n_more)
        self._wakeup.notify()

    def drop_cancelled(self) -> None:
        """Take what was cancelled out of the queue now, and not when its turn comes."""
        with self._changed:
            self._queue.drop_cancelled()
            self._tell_taken()

    def stop(self, timeout: float | None = None) -> None:
        """Accept nothing more, finish what was accepted, and stop."""
        self._close()
        if self._thread.ident is None:
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._abandon(UnavailableError("the service stopped before this was evaluated"))

    def _admitting(self) -> Admission:
        if self._admission is None:
            raise self._refusal()
        return self._admission

    def _refusal(self) -> ServiceError:
        """Why no requests are accepted; a new error each time, as raising one changes it."""
        if self._failure is not None:
            return copy(self._failure)
        if self._is_closed:
            return UnavailableError("the service is shutting down", retry_after=1.0)
        return UnavailableError("the service is starting: its models are loading", retry_after=1.0)

    def _close(self, failure: ServiceError | None = None) -> None:
        with self._changed:
            self._failure = self._failure or failure
            self._is_closed = True
            self._changed.notify_all()
        self._wakeup.notify()

    def _abandon(self, error: ServiceError) -> None:
        """Complete with this error whatever waits or runs."""
        with self._changed:
            abandoned = [*self._running, *self._queue.clear()]
        for request in abandoned:
            request.fail(error)
        for run in self._runner.runs:
            run.fail(error)

    def run(self, on_ready: Callable[[], None] | None = None) -> None:
        """Own the device until told to stop, in this thread instead of one of the engine's own.

        Whatever ends it, no future is left behind.

        Args:
            on_ready: Called once requests are accepted.
        """
        try:
            self._prepare()
            if on_ready is not None:
                on_ready()
            answering = Answering(
                self._loaded,
                self._limits,
                self._learn,
                self._note_out_of_memory,
                self._on_batch,
                self._clock,
            )
            while (taken := self._take()) is not None:
                for request in taken.expired:
                    request.fail(_expired())
                if taken.batch:
                    answering.complete(taken.batch, self._held_s)
                self._advance()
                with self._changed:
                    self._holding.learn(at_least=_MANY_BATCHES)
        except ModelLoadError as error:
            logger.info("a model could not be loaded", exc_info=error)
            self._close(error)
        except BaseException as error:
            logger.critical("the engine thread died", exc_info=error)
            self._close(UnavailableError(f"the engine thread died: {evaluation.summary(error)}"))
        finally:
            self._close()
            self._abandon(self._refusal())

    def _prepare(self) -> None:
        try:
            loaded = {
                name: replace(model, info=replace(model.info, name=name))
                for name, model in self._load().items()
            }
            for model in loaded.values():
                loading.warm_up(model)
                self._measure_memory(model)
        except ModelLoadError:
            raise
        except Exception as error:
            raise ModelLoadError(evaluation.summary(error)) from error
        with self._changed:
            self._loaded = loaded
            self._models = {name: model.info for name, model in loaded.items()}
            self._admission = Admission(self._models, self._limits.max_pairs_per_system)
            self._changed.notify_all()

    def _measure_memory(self, model: LoadedModel) -> None:
        for with_autograd in (False, True):
            samples = loading.memory_samples(model, with_autograd=with_autograd)
            if (budget := budgets.measured(*samples)) is not None:
                self._budgets.set(model.info.name, budget, with_autograd=with_autograd)

    def _take(self) -> Taken | None:
        """Wait for the next batch; None when there will be no more."""
        with self._changed:
            self._running = []
        self._wakeup.wait(0)  # what has come during the last batch
        while True:
            if self._has_to_move():
                return Taken([], [])
            self._held_s = self._hold_back()
            if self._runner.is_due:  # who came meanwhile may share the batch
                return Taken([], [])
            with self._changed:
                taken = self._queue.next_batch(self._clock())
                self._tell_taken()
                if taken.batch or taken.expired:
                    self._running = [*taken.batch, *taken.expired]
                    return taken
                if self._is_closed:
                    return None
            self._wakeup.wait()

    def _has_to_move(self) -> bool:
        """Tell whether walkers can go on, or have to end."""
        return self._runner.is_due or (self._is_closed and len(self._runner) > 0)

    def _advance(self) -> None:
        """Let the walkers go on that can, all of a batch together."""
        if self._is_closed:
            self._runner.end_all(self._refusal())
        if not self._runner.is_due:
            return
        asked = self._runner.advance()
        with self._changed:
            now = self._clock()
            self._queue.put_back(asked, now)
            self._holding.note_requests(asked, now)

    def _hold_back(self) -> float:
        """Let a free device wait for walkers where that pays; return how long it did, in s."""
        started = now = self._clock()
        with self._changed:
            hold = self._holding.hold(self._queue.peek(), now)
        while hold is not None and hold.awaited and now < hold.until:
            if self._is_closed or self._queue.n_groups > 1 or self._runner.is_due:
                break
            self._wakeup.wait(hold.until - now)
            now = self._clock()
        return now - started

    def _tell_taken(self) -> None:
        if self._on_take is not None:
            self._on_take(*self._queue.n_left)

    def _learn(self, batch: Sequence[Request[Any]], report: BatchReport, now: float) -> None:
        """Learn from a batch before its callers know, who may return at once."""
        with self._changed:
            self._queue.charge(batch[0], report.compute_s)
            if not report.n_rows:
                self._pace.note(report)
                self._holding.note_batch(batch, report.compute_s, now)

    def _note_out_of_memory(self, batch: Sequence[Request[Any]]) -> None:
        with self._changed:
            self._budgets.note_out_of_memory(batch)


def _expired() -> DeadlineExceededError:
    return DeadlineExceededError("the deadline passed before the system was evaluated")
