"""What becomes of a batch: every request of it is completed, whatever the model does."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from twinforce_dynamics.disagreement import disagreements
from twinforce_models.registry import LoadedModel
from twinforce_proto import Prediction, Provenance, ServiceError, Timings
from twinforce_service.engine import evaluation
from twinforce_service.engine.report import BatchReport
from twinforce_service.scheduling.request import JacobianRequest, JacobianRows, Limits, Request
from twinforce_service.version import provenance_of

logger = logging.getLogger(__name__)


class Answering:
    """Evaluates batches and answers their requests, in the thread that owns the device.

    A batch that fails is halved until the failure is pinned on single systems, so one bad
    system never fails its neighbors.

    Args:
        models: Under the names they are served by.
        limits: How many neighbor pairs a system and a batch may have.
        learn: Told of each batch and of the time, before its callers are answered: they may
            return at once.
        on_out_of_memory: Told of requests that were too much together.
        on_batch: Told of each batch after its requests were completed.
        clock: In s.
    """

    def __init__(
        self,
        models: Mapping[str, LoadedModel],
        limits: Limits,
        learn: Callable[[Sequence[Request[Any]], BatchReport, float], None],
        on_out_of_memory: Callable[[Sequence[Request[Any]]], None],
        on_batch: Callable[[BatchReport], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self._loaded = models
        self._provenances = {name: provenance_of(model.info) for name, model in models.items()}
        self._limits = limits
        self._learn = learn
        self._on_out_of_memory = on_out_of_memory
        self._on_batch = on_batch
        self._clock = clock

    def complete(self, batch: Sequence[Request[Any]], held_s: float = 0.0) -> None:
        """Complete every future of the batch, whatever the model does.

        Args:
            batch: At least one request, all for one model.
            held_s: How long the batch waited with the device free, in s.

        """
        model = self._loaded[batch[0].model]
        started = self._clock()
        try:
            answers = self._answers(model, batch)
        except Exception as error:
            if evaluation.is_out_of_memory(error):
                self._on_out_of_memory(batch)
            evaluation.recover(model, error)
            self._narrow_down(batch, error)
        else:
            self._answer(batch, answers, started, held_s)

    def _answers(self, model: LoadedModel, batch: Sequence[Request[Any]]) -> Sequence[Any]:
        first = batch[0]
        if isinstance(first, JacobianRequest):
            return [evaluation.evaluate_rows(model, first, self._limits)]
        return evaluation.evaluate(model, batch, self._limits)

    def _narrow_down(self, batch: Sequence[Request[Any]], error: Exception) -> None:
        if len(batch) > 1:
            middle = len(batch) // 2
            self.complete(batch[:middle])
            self.complete(batch[middle:])
            return
        (request,) = batch
        if not isinstance(error, ServiceError):
            logger.warning("the model failed", extra=_described(request), exc_info=error)
        device = self._loaded[request.model].info.device
        request.fail(evaluation.failure_of(error, request.n_atoms, device))

    def _answer(
        self,
        batch: Sequence[Request[Any]],
        answers: Sequence[Any],
        started: float,
        held_s: float,
    ) -> None:
        now = self._clock()
        report = _report(batch, started, now, held_s)
        self._learn(batch, report, now)
        provenance = self._provenances[report.model]
        for request, answer, waited in zip(batch, answers, report.queue_s, strict=True):
            if isinstance(answer, ServiceError):
                logger.info("%s", answer, extra=_described(request))
                request.fail(answer)
            else:
                timings = Timings(waited, report.compute_s, len(batch), report.n_atoms)
                request.complete(_finished(answer, request.outputs, provenance, timings))
        if not report.n_rows:
            systems = [request.system for request in batch]
            report = replace(report, disagreements=disagreements(systems, answers))
        self._report(report)

    def _report(self, report: BatchReport) -> None:
        try:
            if self._on_batch is not None:
                self._on_batch(report)
        except Exception:
            logger.exception("a batch could not be reported")


def _finished(
    answer: Prediction | JacobianRows,
    outputs: frozenset[str],
    provenance: Provenance,
    timings: Timings,
) -> Prediction | JacobianRows:
    """Return an answer with only what was asked for, what made it and where the time went."""
    if isinstance(answer, JacobianRows):
        return JacobianRows(answer.values, provenance, timings)
    asked = {name: getattr(answer, name) for name in outputs}
    return Prediction(**asked, provenance=provenance, timings=timings)


def _report(
    batch: Sequence[Request[Any]], started: float, now: float, held_s: float
) -> BatchReport:
    first = batch[0]
    return BatchReport(
        first.model,
        len(batch),
        sum(request.n_atoms for request in batch),
        tuple(started - request.submitted_at for request in batch),
        now - started,
        len(first.rows) if isinstance(first, JacobianRequest) else 0,
        held_s,
    )


def _described(request: Request[Any]) -> dict[str, object]:
    return {
        "model": request.model,
        "n_atoms": request.n_atoms,
        "request_id": request.request_id,
    }
