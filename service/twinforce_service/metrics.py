"""Prometheus metrics of the service."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from twinforce_dynamics.disagreement import SystemDisagreement
from twinforce_proto import ModelInfo
from twinforce_service.engine.report import BatchReport

CONTENT_TYPE = CONTENT_TYPE_LATEST
# Number of callers with a label of their own, and the label of those that come after them.
_MAX_CALLERS = 256
OTHER_CALLERS = "other"
# Label of all models that are not served, so that clients cannot create any number of labels.
UNKNOWN_MODEL = "unknown"

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SYSTEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_EV_PER_A = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 3, 10)
_ATOMS = (1, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000)


@dataclass(frozen=True, slots=True)
class _Metric:
    """A row of the table of metrics."""

    kind: type[Counter | Gauge | Histogram | Summary]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def register(self, registry: CollectorRegistry) -> Any:
        """Return the metric, an instance of `kind`, in this registry."""
        options: dict[str, Any] = {"buckets": self.buckets} if self.buckets else {}
        return self.kind(self.name, self.help, self.labels, registry=registry, **options)


_MODEL, _CALLER = ("model",), ("caller",)

_TABLE = (
    _Metric(
        Counter,
        "twinforce_requests",
        "Calls answered, by transport, model and outcome (ok, or the class of the error).",
        ("transport", "model", "outcome"),
    ),
    _Metric(
        Counter,
        "twinforce_caller_device_seconds",
        "Time on the device by caller: the name of a key, or an address. A batch of several is "
        "split by what their systems are expected to cost.",
        _CALLER,
    ),
    _Metric(Counter, "twinforce_caller_evaluations", "Systems evaluated, by caller.", _CALLER),
    _Metric(Counter, "twinforce_caller_atoms", "Atoms of these systems, by caller.", _CALLER),
    _Metric(Counter, "twinforce_evaluations", "Systems evaluated.", _MODEL),
    _Metric(Counter, "twinforce_atoms", "Atoms of the systems evaluated.", _MODEL),
    _Metric(Histogram, "twinforce_batch_systems", "Systems per batch.", _MODEL, _SYSTEMS),
    _Metric(Histogram, "twinforce_batch_atoms", "Atoms per batch.", _MODEL, _ATOMS),
    _Metric(
        Histogram,
        "twinforce_queue_seconds",
        "Time that a system waited for the device.",
        _MODEL,
        _SECONDS,
    ),
    _Metric(
        Histogram,
        "twinforce_batch_hold_seconds",
        "Time that a batch waited for walkers about to return while the device was free.",
        _MODEL,
        _SECONDS,
    ),
    _Metric(
        Histogram,
        "twinforce_compute_seconds",
        "Time that a batch took on the device.",
        _MODEL,
        _SECONDS,
    ),
    _Metric(
        Histogram,
        "twinforce_force_disagreement",
        "RMSE between the conservative and direct forces of a system evaluated for both, in eV/Å.",
        _MODEL,
        _EV_PER_A,
    ),
    _Metric(
        Summary,
        "twinforce_element_force_disagreement",
        "RMSE between the conservative and direct forces on the atoms of one element, in eV/Å.",
        ("model", "atomic_number"),
    ),
    _Metric(
        Counter,
        "twinforce_jacobian_rows",
        "Rows of Jacobians evaluated for nonconservativity.",
        _MODEL,
    ),
    _Metric(
        Counter,
        "twinforce_jacobian_seconds",
        "Time that rows of Jacobians took on the device.",
        _MODEL,
    ),
    _Metric(
        Gauge,
        "twinforce_model_info",
        "Served models; the value is always 1.",
        ("model", "version", "sha256", "architecture", "dtype", "device"),
    ),
    _Metric(
        Gauge,
        "twinforce_model_available",
        "1 while requests for a model are accepted, 0 while its engine is restarted.",
        _MODEL,
    ),
    _Metric(
        Counter,
        "twinforce_engine_restarts",
        "Restarts of engine processes that had exited.",
        ("environment", "device"),
    ),
    _Metric(
        Gauge,
        "twinforce_service_info",
        "Version of the service; the value is always 1.",
        ("version",),
    ),
    _Metric(Gauge, "twinforce_queue_requests", "Systems in the queue."),
    _Metric(Gauge, "twinforce_queue_atoms", "Atoms of the systems in the queue."),
    _Metric(Gauge, "twinforce_propagations", "Systems that the service is moving."),
)


@dataclass(frozen=True, slots=True)
class _BatchMetrics:
    """The metrics of the batches of one model."""

    evaluations: Counter
    atoms: Counter
    batch_systems: Histogram
    batch_atoms: Histogram
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
        self._metrics = {each.name: each.register(self.registry) for each in _TABLE}
        self._requests: dict[tuple[str, str, str], Counter] = {}
        self._by_model: dict[str, _BatchMetrics] = {}
        self._by_caller: dict[str, tuple[Counter, Counter, Counter]] = {}
        self._metrics["twinforce_service_info"].labels(service_version).set(1)

    def count_request(self, transport: str, model: str, outcome: str) -> None:
        """Count a call that was answered."""
        labels = transport, model, outcome
        if (counter := self._requests.get(labels)) is None:
            counter = self._requests[labels] = self._metrics["twinforce_requests"].labels(*labels)
        counter.inc()

    def observe_batch(self, report: BatchReport) -> None:
        """Record a batch, or some rows of a Jacobian."""
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
        metrics.held_s.observe(report.held_s)
        metrics.compute_s.observe(report.compute_s)
        for queue_s in report.queue_s:
            metrics.queue_s.observe(queue_s)
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

    def show_model(self, info: ModelInfo, is_available: Callable[[], bool]) -> None:
        """Add a served model to the model information, and ask at each scrape if it is there."""
        self._metrics["twinforce_model_available"].labels(info.name).set_function(is_available)
        self._metrics["twinforce_model_info"].labels(
            info.name, info.version, info.sha256, info.architecture, info.dtype, info.device
        ).set(1)

    def exposition(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
