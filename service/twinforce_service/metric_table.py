"""The table of the metrics of the service."""

from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SYSTEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_EV_PER_A = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 3, 10)
_PARTS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
_ATOMS = (1, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000)


@dataclass(frozen=True, slots=True)
class Metric:
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

TABLE = (
    Metric(
        Counter,
        "twinforce_requests",
        "Calls answered, by transport, model and outcome (ok, or the class of the error).",
        ("transport", "model", "outcome"),
    ),
    Metric(
        Counter,
        "twinforce_caller_device_seconds",
        "Time on the device by caller: the name of a key, or an address. A batch of several is "
        "split by what their systems are expected to cost.",
        _CALLER,
    ),
    Metric(Counter, "twinforce_caller_evaluations", "Systems evaluated, by caller.", _CALLER),
    Metric(Counter, "twinforce_caller_atoms", "Atoms of these systems, by caller.", _CALLER),
    Metric(Counter, "twinforce_evaluations", "Systems evaluated.", _MODEL),
    Metric(Counter, "twinforce_atoms", "Atoms of the systems evaluated.", _MODEL),
    Metric(Histogram, "twinforce_batch_systems", "Systems per batch.", _MODEL, _SYSTEMS),
    Metric(Histogram, "twinforce_batch_atoms", "Atoms per batch.", _MODEL, _ATOMS),
    Metric(
        Histogram,
        "twinforce_batch_fill",
        "Part of the atoms or neighbor pairs that a batch may have, whichever is more.",
        _MODEL,
        _PARTS,
    ),
    Metric(
        Counter,
        "twinforce_padding_atoms",
        "Places for atoms that were evaluated empty, as batches on GPUs have certain sizes.",
        _MODEL,
    ),
    Metric(
        Gauge,
        "twinforce_device_memory_bytes",
        "Memory of a GPU: used by tensors, reserved for them by the engine, and free for all.",
        ("environment", "device", "kind"),
    ),
    Metric(
        Histogram,
        "twinforce_queue_seconds",
        "Time that a system waited for the device.",
        _MODEL,
        _SECONDS,
    ),
    Metric(
        Histogram,
        "twinforce_batch_hold_seconds",
        "Time that a batch waited for walkers about to return while the device was free.",
        _MODEL,
        _SECONDS,
    ),
    Metric(
        Histogram,
        "twinforce_compute_seconds",
        "Time that a batch took on the device.",
        _MODEL,
        _SECONDS,
    ),
    Metric(
        Histogram,
        "twinforce_force_disagreement",
        "RMSE between the conservative and direct forces of a system evaluated for both, in eV/Å.",
        _MODEL,
        _EV_PER_A,
    ),
    Metric(
        Summary,
        "twinforce_element_force_disagreement",
        "RMSE between the conservative and direct forces on the atoms of one element, in eV/Å.",
        ("model", "atomic_number"),
    ),
    Metric(
        Counter,
        "twinforce_jacobian_rows",
        "Rows of Jacobians evaluated for nonconservativity.",
        _MODEL,
    ),
    Metric(
        Counter,
        "twinforce_jacobian_seconds",
        "Time that rows of Jacobians took on the device.",
        _MODEL,
    ),
    Metric(
        Gauge,
        "twinforce_model_info",
        "Served models; the value is always 1.",
        ("model", "version", "sha256", "architecture", "dtype", "device"),
    ),
    Metric(
        Gauge,
        "twinforce_model_available",
        "1 while requests for a model are accepted, 0 while it is loaded, also after a restart of "
        "its engine.",
        _MODEL,
    ),
    Metric(
        Counter,
        "twinforce_engine_restarts",
        "Restarts of engine processes that had exited.",
        ("environment", "device"),
    ),
    Metric(
        Gauge,
        "twinforce_service_info",
        "Version of the service; the value is always 1.",
        ("version",),
    ),
    Metric(
        Gauge,
        "twinforce_build_info",
        "Versions of the service and of Python, and the system; the value is always 1.",
        ("version", "python_version", "platform"),
    ),
    Metric(Gauge, "twinforce_queue_requests", "Systems in the queue."),
    Metric(Gauge, "twinforce_queue_atoms", "Atoms of the systems in the queue."),
    Metric(Gauge, "twinforce_propagations", "Systems that the service is moving."),
)
