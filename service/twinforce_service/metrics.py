"""What the service counts and measures, in the words of Prometheus."""

from collections.abc import Callable
from dataclasses import dataclass

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
# The label of what asks for a model that is not served, which callers could make without end.
UNKNOWN_MODEL = "unknown"

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SYSTEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_EV_PER_A = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 3, 10)
_ATOMS = (1, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000)


@dataclass(frozen=True, slots=True)
class _OfModel:
    """What is counted of each batch of one model."""

    evaluations: Counter
    atoms: Counter
    batch_systems: Histogram
    batch_atoms: Histogram
    queue_s: Histogram
    held_s: Histogram
    compute_s: Histogram


class Metrics:
    """All metrics of one service, in a registry of its own.

    Args:
        service_version: Of the service.
    """

    def __init__(self, service_version: str) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "twinforce_requests",
            "Calls answered, by transport, model and outcome (ok, or the class of the error).",
            ["transport", "model", "outcome"],
            registry=self.registry,
        )
        self._evaluations = Counter(
            "twinforce_evaluations",
            "Systems evaluated.",
            ["model"],
            registry=self.registry,
        )
        self._atoms = Counter(
            "twinforce_atoms",
            "Atoms of the systems evaluated.",
            ["model"],
            registry=self.registry,
        )
        self._batch_systems = self._histogram(
            "twinforce_batch_systems", "Systems that shared a batch.", _SYSTEMS
        )
        self._batch_atoms = self._histogram(
            "twinforce_batch_atoms", "Atoms that shared a batch.", _ATOMS
        )
        self._queue_s = self._histogram(
            "twinforce_queue_seconds", "Time a system waited for the device.", _SECONDS
        )
        self._held_s = self._histogram(
            "twinforce_batch_hold_seconds",
            "Time a batch waited for walkers about to return, with the device free.",
            _SECONDS,
        )
        self._compute_s = self._histogram(
            "twinforce_compute_seconds", "Time a batch took on the device.", _SECONDS
        )
        self._disagreement = self._histogram(
            "twinforce_force_disagreement",
            "RMSE between conservative and direct forces of a system asked for both, in eV/Å.",
            _EV_PER_A,
        )
        self._element_disagreement = Summary(
            "twinforce_element_force_disagreement",
            "The same over the atoms of one element.",
            ["model", "atomic_number"],
            registry=self.registry,
        )
        self._jacobian_rows = Counter(
            "twinforce_jacobian_rows",
            "Rows of Jacobians evaluated, for nonconservativity.",
            ["model"],
            registry=self.registry,
        )
        self._jacobian_s = Counter(
            "twinforce_jacobian_seconds",
            "Time that rows of Jacobians took on the device.",
            ["model"],
            registry=self.registry,
        )
        self._model_info = Gauge(
            "twinforce_model_info",
            "Models served; always 1.",
            ["model", "version", "sha256", "architecture", "dtype", "device"],
            registry=self.registry,
        )
        self._restarts = Counter(
            "twinforce_engine_restarts",
            "Times that the process of an engine had died and was started again.",
            ["device"],
            registry=self.registry,
        )
        service = Gauge(
            "twinforce_service_info",
            "Version of the service; always 1.",
            ["version"],
            registry=self.registry,
        )
        service.labels(service_version).set(1)
        self._by_model: dict[str, _OfModel] = {}

    def count_request(self, transport: str, model: str, outcome: str) -> None:
        """Count one call that was answered."""
        self._requests.labels(transport, model, outcome).inc()

    def observe_batch(self, report: BatchReport) -> None:
        """Count and measure one batch, or some rows of a Jacobian."""
        if report.n_rows:
            self._jacobian_rows.labels(report.model).inc(report.n_rows)
            self._jacobian_s.labels(report.model).inc(report.compute_s)
            return
        of_model = self._of_model(report.model)
        of_model.evaluations.inc(report.n_systems)
        of_model.atoms.inc(report.n_atoms)
        of_model.batch_systems.observe(report.n_systems)
        of_model.batch_atoms.observe(report.n_atoms)
        of_model.held_s.observe(report.held_s)
        of_model.compute_s.observe(report.compute_s)
        for seconds in report.queue_s:
            of_model.queue_s.observe(seconds)
        for disagreement in report.disagreements:
            self._observe_disagreement(report.model, disagreement)

    def _of_model(self, model: str) -> "_OfModel":
        """Return what is counted of each batch, found once for each model."""
        if (found := self._by_model.get(model)) is None:
            found = self._by_model[model] = _OfModel(
                self._evaluations.labels(model),
                self._atoms.labels(model),
                self._batch_systems.labels(model),
                self._batch_atoms.labels(model),
                self._queue_s.labels(model),
                self._held_s.labels(model),
                self._compute_s.labels(model),
            )
        return found

    def _observe_disagreement(self, model: str, disagreement: SystemDisagreement) -> None:
        self._disagreement.labels(model).observe(disagreement.rmse)
        for atomic_number, rmse in disagreement.by_element.items():
            self._element_disagreement.labels(model, atomic_number).observe(rmse)

    def watch_queue(self, n_requests: Callable[[], float], n_atoms: Callable[[], float]) -> None:
        """Read the depth of the queue from these functions whenever it is asked for."""
        depth = Gauge("twinforce_queue_requests", "Systems that wait.", registry=self.registry)
        depth.set_function(n_requests)
        atoms = Gauge("twinforce_queue_atoms", "Atoms that wait.", registry=self.registry)
        atoms.set_function(n_atoms)

    def show_engine(self, device: str) -> None:
        """Show that a device has an engine, which has not been restarted yet."""
        self._restarts.labels(device)

    def count_restart(self, device: str) -> None:
        """Count that the engine of a device was started again."""
        self._restarts.labels(device).inc()

    def watch_runs(self, n_running: Callable[[], float]) -> None:
        """Read how many walkers are under way from this function whenever it is asked for."""
        gauge = Gauge(
            "twinforce_propagations", "Systems on the move on the server.", registry=self.registry
        )
        gauge.set_function(n_running)

    def show_model(self, info: ModelInfo) -> None:
        """Show that a model is served."""
        self._model_info.labels(
            info.name, info.version, info.sha256, info.architecture, info.dtype, info.device
        ).set(1)

    def exposition(self) -> bytes:
        """Return everything in the text format of Prometheus."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ["model"], buckets=buckets, registry=self.registry)
