"""Prometheus metrics of the service."""

import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family

from twinforce_dynamics.disagreement import SystemDisagreement
from twinforce_proto import ModelInfo
from twinforce_service.context import trace_id_of
from twinforce_service.engine.report import BatchReport, DeviceMemory
from twinforce_service.metric_table import TABLE

# Number of callers with a label of their own, and the label of those that come after them, which
# is the name of no key.
_MAX_CALLERS = 256
OTHER_CALLERS = "(other)"
# Label of all models that are not served, so that clients cannot create any number of labels; no
# model can have this name.
UNKNOWN_MODEL = "(unknown)"


@dataclass(frozen=True, slots=True)
class _BatchMetrics:
    """The metrics of the batches of one model."""

    evaluations: Counter
    atoms: Counter
    batch_systems: Histogram
    batch_atoms: Histogram
    fill: Histogram
    padding: Counter
    queue_s: Histogram
    held_s: Histogram
    compute_s: Histogram


class Metrics:
    """The metrics of one service, in a separate registry.

    Args:
        service_version: Version of the service.
    """

    def __init__(self, service_version: str) -> None:
        self.registry = CollectorRegistry()
        self._metrics = {each.name: each.register(self.registry) for each in TABLE}
        self._requests: dict[tuple[str, str, str], Counter] = {}
        self._by_model: dict[str, _BatchMetrics] = {}
        self._by_caller: dict[str, tuple[Counter, Counter, Counter]] = {}
        self._metrics["twinforce_service_info"].labels(service_version).set(1)
        system = f"{platform.system()} {platform.machine()}"
        build = service_version, platform.python_version(), system
        self._metrics["twinforce_build_info"].labels(*build).set(1)

    def count_request(self, transport: str, model: str, outcome: str) -> None:
        """Count a call that was answered."""
        labels = transport, model, outcome
        if (counter := self._requests.get(labels)) is None:
            counter = self._requests[labels] = self._metrics["twinforce_requests"].labels(*labels)
        counter.inc()

    def observe_batch(self, report: BatchReport, environment: str) -> None:
        """Record a batch, or some rows of a Jacobian, of an engine of this environment."""
        for usage in report.usage:
            seconds, evaluations, atoms = self._caller_metrics(usage.caller)
            seconds.inc(usage.device_s)
            evaluations.inc(usage.n_systems)
            atoms.inc(usage.n_atoms)
        if report.n_rows:
            rows, time = "twinforce_jacobian_rows", "twinforce_jacobian_seconds"
            self._metrics[rows].labels(report.model).inc(report.n_rows)
            self._metrics[time].labels(report.model).inc(report.compute_s)
            return
        metrics = self._batch_metrics(report.model)
        metrics.evaluations.inc(report.n_systems)
        metrics.atoms.inc(report.n_atoms)
        metrics.batch_systems.observe(report.n_systems)
        metrics.batch_atoms.observe(report.n_atoms)
        metrics.fill.observe(report.fill)
        if report.n_padding:
            metrics.padding.inc(report.n_padding)
        metrics.held_s.observe(report.held_s)
        spans = {waited: span for span, waited in report.traces}
        any_span = next(iter(spans.values()), None)
        metrics.compute_s.observe(report.compute_s, _exemplar_of(any_span))
        for queue_s in report.queue_s:
            metrics.queue_s.observe(queue_s, _exemplar_of(spans.get(queue_s)))
        if report.memory is not None:
            self._show_memory(report.memory, environment)
        for disagreement in report.disagreements:
            self._observe_disagreement(report.model, disagreement)

    def _caller_metrics(self, caller: str) -> tuple[Counter, Counter, Counter]:
        """Return the metrics of a caller: device time, systems and atoms."""
        if caller not in self._by_caller and len(self._by_caller) >= _MAX_CALLERS:
            caller = OTHER_CALLERS
        if (found := self._by_caller.get(caller)) is None:
            kinds = ("device_seconds", "evaluations", "atoms")
            seconds, evaluations, atoms = (
                self._metrics[f"twinforce_caller_{kind}"].labels(caller) for kind in kinds
            )
            found = self._by_caller[caller] = seconds, evaluations, atoms
        return found

    def _batch_metrics(self, model: str) -> _BatchMetrics:
        """Return the metrics of a model, which are looked up once, as that takes long."""
        if (found := self._by_model.get(model)) is None:
            found = self._by_model[model] = _BatchMetrics(
                evaluations=self._metrics["twinforce_evaluations"].labels(model),
                atoms=self._metrics["twinforce_atoms"].labels(model),
                batch_systems=self._metrics["twinforce_batch_systems"].labels(model),
                batch_atoms=self._metrics["twinforce_batch_atoms"].labels(model),
                fill=self._metrics["twinforce_batch_fill"].labels(model),
                padding=self._metrics["twinforce_padding_atoms"].labels(model),
                queue_s=self._metrics["twinforce_queue_seconds"].labels(model),
                held_s=self._metrics["twinforce_batch_hold_seconds"].labels(model),
                compute_s=self._metrics["twinforce_compute_seconds"].labels(model),
            )
        return found

    def _observe_disagreement(self, model: str, disagreement: SystemDisagreement) -> None:
        self._metrics["twinforce_force_disagreement"].labels(model).observe(disagreement.rmse)
        by_element = self._metrics["twinforce_element_force_disagreement"]
        for atomic_number, rmse in disagreement.by_element.items():
            by_element.labels(model, atomic_number).observe(rmse)

    def _show_memory(self, memory: DeviceMemory, environment: str) -> None:
        gauge = self._metrics["twinforce_device_memory_bytes"]
        for kind in ("used", "reserved", "free"):
            gauge.labels(environment, memory.device, kind).set(getattr(memory, kind))

    def watch_queue(self, n_requests: Callable[[], float], n_atoms: Callable[[], float]) -> None:
        """Read the size of the queue from these functions at each scrape."""
        self._metrics["twinforce_queue_requests"].set_function(n_requests)
        self._metrics["twinforce_queue_atoms"].set_function(n_atoms)

    def watch_runs(self, n_running: Callable[[], float]) -> None:
        """Read the number of active runs from this function at each scrape."""
        self._metrics["twinforce_propagations"].set_function(n_running)

    def count_restart(self, environment: str, device: str) -> None:
        """Count a restart of the engine process of an environment and a device."""
        self._metrics["twinforce_engine_restarts"].labels(environment, device).inc()

    def watch_model(self, name: str, is_available: Callable[[], bool]) -> None:
        """Ask at each scrape if requests for a model are accepted."""
        self._metrics["twinforce_model_available"].labels(name).set_function(is_available)

    def show_model(self, info: ModelInfo) -> None:
        """Add a model that was loaded to the model information."""
        self._metrics["twinforce_model_info"].labels(
            info.name, info.version, info.sha256, info.architecture, info.dtype, info.device
        ).set(1)

    def exposition(self, accepted: str = "") -> tuple[bytes, str]:
        """Return all metrics, and their media type: the text format of Prometheus or OpenMetrics.

        Only OpenMetrics has exemplars: the traces of observations in histograms.

        Args:
            accepted: Media types that are accepted, as in the header Accept.
        """
        encode, media_type = choose_encoder(accepted)
        return encode(_WithoutCreated(self.registry)), media_type


class _WithoutCreated:
    """The metrics of a registry without the times at which they were created.

    Prometheus takes each of them for one more metric, and nobody asks for them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Family]:
        """Yield the metrics."""
        for family in self._registry.collect():
            family.samples = [each for each in family.samples if not _is_created(each.name)]
            yield family


def _is_created(name: str) -> bool:
    return name.endswith("_created")


def _exemplar_of(span: str | None) -> dict[str, str] | None:
    """Return what names the trace of an observation, unless the call was not traced."""
    return None if span is None else {"trace_id": trace_id_of(span)}
