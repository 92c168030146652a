"""Runs that step in an event loop, because no single engine can evaluate all that they need."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twinforce_proto import OverloadedError, ServiceError
from twinforce_service.engine.run_steps import run_steps_of
from twinforce_service.engine.runner import ActiveRun, Runner
from twinforce_service.engine.runs import Credit, Run
from twinforce_service.scheduling.admission import Admission
from twinforce_service.scheduling.request import Limits, Request, check_sizes


class LoopRuns:
    """Runs whose evaluations are submitted one by one; safe to call in any thread.

    Args:
        submit: Submits admitted requests, or raises a `ServiceError`.
        loop: Event loop that steps the runs.
    """

    def __init__(
        self, submit: Callable[[Sequence[Request[Any]]], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._submit = submit
        self._loop = loop
        self._runner = Runner()

    def start(self, run: Run, admission: Admission, limits: Limits) -> Credit:
        """Accept a run, or raise a `ServiceError`; return the function that adds credit."""
        active = ActiveRun.of(run, run_steps_of(run.request, admission.find), admission)
        requests = active.initial_requests()
        check_sizes(requests, limits)
        admission.admit(requests)
        self._runner.begin(active)
        self._call(self._advance)
        run.future.add_done_callback(lambda _: self._add_credit(active, 0))
        return partial(self._add_credit, active)

    def end_all(self, error: ServiceError) -> None:
        """End all runs with this error."""
        self._call(partial(self._runner.end_all, error))

    def _add_credit(self, active: ActiveRun, n_more: int) -> None:
        self._runner.add_credit(active, n_more)
        self._call(self._advance)

    def _advance(self) -> None:
        """Advance all runs that can, and submit their next requests."""
        for request in self._runner.advance():
            request.future.add_done_callback(lambda _: self._call(self._advance))
            self._ask(request)

    def _ask(self, request: Request[Any]) -> None:
        """Submit a request of a run that was admitted before; a full queue only delays it."""
        try:
            self._submit([request])
        except OverloadedError as error:
            self._loop.call_later(error.retry_after or 0.0, self._ask, request)
        except ServiceError as error:
            request.fail(error)

    def _call(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call)
