"""Evaluate batches, and complete every request of them whatever the model does."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from twinforce_dynamics.disagreement import disagreements
from twinforce_models.registry import LoadedModel
from twinforce_proto import Prediction, Provenance, ServiceError, Timings
from twinforce_service.context import trace_id_of
from twinforce_service.engine import evaluation
from twinforce_service.engine.report import BatchReport, DeviceMemory, guarded, usage_of
from twinforce_service.scheduling.request import JacobianRequest, JacobianRows, Limits, Request
from twinforce_service.version import provenance_of

logger = logging.getLogger(__name__)

# Seconds between reports of the memory of the device.
_MEMORY_INTERVAL_S = 1.0


class Answering:
    """The evaluation of batches and the completion of their requests, on the device thread.

    A batch that fails is halved until the failure is pinned on single systems, so that one bad
    system never fails its neighbors.

    Args:
        models: Models by name.
        limits: Limits of the neighbor pairs of a system and of a batch.
        on_begin: Called with each batch, or part of one, before it is evaluated.
        learn: Called with each batch, its report and the time, before the requests complete,
            because clients may return at once. Returns the device time of each request, in s.
        on_out_of_memory: Called with requests that did not fit into memory together.
        on_batch: Called with the report of each batch after its requests were completed.
        clock: Returns the time, in s.
        n_waiting_atoms: Returns the number of atoms that wait for the device.
    """

    def __init__(
        self,
        models: Mapping[str, LoadedModel],
        limits: Limits,
        on_begin: Callable[[Sequence[Request[Any]]], None],
        learn: Callable[[Sequence[Request[Any]], BatchReport, float], Sequence[float]],
        on_out_of_memory: Callable[[Sequence[Request[Any]]], None],
        on_batch: Callable[[BatchReport], None] | None,
        clock: Callable[[], float],
        n_waiting_atoms: Callable[[], int],
    ) -> None:
        self._models = models
        self._provenances = {name: provenance_of(model.info) for name, model in models.items()}
        self._limits = limits
        self._on_begin = on_begin
        self._learn = learn
        self._on_out_of_memory = on_out_of_memory
        self._report_batch = guarded(on_batch)
        self._padding: dict[str, int] = {}
        self._memory_due_at = 0.0
        self._clock = clock
        self._n_waiting_atoms = n_waiting_atoms

    def complete(self, batch: Sequence[Request[Any]], held_s: float = 0.0) -> None:
        """Complete every future of the batch.

        Args:
            batch: At least one request, all for the same model.
            held_s: Time that the batch waited while the device was free, in s.

        Raises:
            DeviceLostError: The device does not respond.
        """
        self._on_begin(batch)
        model = self._models[batch[0].model]
        started = self._clock()
        try:
            answers = self._evaluate(model, batch)
        except Exception as error:
            if evaluation.is_out_of_memory(error):
                self._on_out_of_memory(batch)
            evaluation.recover(model, error)
            self._narrow_down(batch, error)
        else:
            self._answer(batch, answers, started, held_s)

    def _evaluate(self, model: LoadedModel, batch: Sequence[Request[Any]]) -> Sequence[Any]:
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
            logger.warning("the model failed", extra=_log_fields(request), exc_info=error)
        device = self._models[request.model].info.device
        request.fail(evaluation.failure_of(error, request.n_atoms, device))

    def _answer(
        self,
        batch: Sequence[Request[Any]],
        answers: Sequence[Any],
        started: float,
        held_s: float,
    ) -> None:
        now = self._clock()
        report = self._report(batch, started, now, held_s)
        device_s = self._learn(batch, report, now)
        provenance = self._provenances[report.model]
        timings = partial(
            Timings,
            compute_s=report.compute_s,
            batch_n_systems=len(batch),
            batch_n_atoms=report.n_atoms,
            queue_n_atoms=self._n_waiting_atoms(),
        )
        for request, answer, waited in zip(batch, answers, report.queue_s, strict=True):
            if isinstance(answer, ServiceError):
                logger.info("%s", answer, extra=_log_fields(request))
                request.fail(answer)
            else:
                request.complete(_finished(answer, request.outputs, provenance, timings(waited)))
        report = replace(report, usage=usage_of(batch, device_s), memory=self._memory(report.model))
        if not report.n_rows:
            systems = [request.system for request in batch]
            report = replace(report, disagreements=disagreements(systems, answers))
        self._report_batch(report)

    def _report(
        self, batch: Sequence[Request[Any]], started: float, now: float, held_s: float
    ) -> BatchReport:
        first, limits = batch[0], self._limits
        n_atoms = sum([each.n_atoms for each in batch])
        n_pairs = sum([each.n_pairs for each in batch])
        return BatchReport(
            first.model,
            len(batch),
            n_atoms,
            tuple([started - each.submitted_at for each in batch]),
            now - started,
            len(first.rows) if isinstance(first, JacobianRequest) else 0,
            held_s,
            began=started,
            fill=max(n_atoms / limits.max_batch_atoms, n_pairs / limits.max_batch_pairs),
            n_padding=self._new_padding(first.model),
            traces=tuple(
                [(each.trace, started - each.submitted_at) for each in batch if each.trace]
            ),
        )

    def _new_padding(self, name: str) -> int:
        """Return the padding of the tables of a model since the last call."""
        tables = self._models[name].tables
        if tables is None:
            return 0
        before, self._padding[name] = self._padding.get(name, 0), tables.n_padding
        return tables.n_padding - before

    def _memory(self, name: str) -> DeviceMemory | None:
        """Return the memory of the device of a model, if it was not asked for recently."""
        now = self._clock()
        if now < self._memory_due_at:
            return None
        self._memory_due_at = now + _MEMORY_INTERVAL_S
        return evaluation.memory_of(self._models[name])


def _finished(
    answer: Prediction | JacobianRows,
    outputs: frozenset[str],
    provenance: Provenance,
    timings: Timings,
) -> Prediction | JacobianRows:
    """Return an answer with only the requested outputs, its provenance and its timings."""
    if isinstance(answer, JacobianRows):
        return JacobianRows(answer.values, provenance, timings)
    requested = {name: getattr(answer, name) for name in outputs}
    return Prediction(**requested, provenance=provenance, timings=timings)


def _log_fields(request: Request[Any]) -> dict[str, object]:
    return {
        "model": request.model,
        "n_atoms": request.n_atoms,
        "request_id": request.request_id,
        "trace_id": trace_id_of(request.trace),
    }
