"""The state of the service, from its engine and its metrics."""

import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import add
from typing import TypeVar

from twinforce_proto import PermissionDeniedError
from twinforce_proto.status import CallerUsage, DeviceStatus, ModelStatus, ServiceStatus
from twinforce_service.callers.permission import METRICS
from twinforce_service.calls.intake import Intake
from twinforce_service.context import caller, permission
from twinforce_service.engine.engine import Engine
from twinforce_service.metrics import Metrics
from twinforce_service.version import service_version

# Sample of the metrics -> attribute, by the label that names the object of the sample.
_OF_MODEL = {
    "twinforce_evaluations_total": "n_evaluations",
    "twinforce_atoms_total": "n_atoms",
    "twinforce_batch_systems_count": "n_batches",
    "twinforce_batch_fill_sum": "batch_fill",
    "twinforce_compute_seconds_sum": "device_s",
    "twinforce_queue_seconds_sum": "queue_s",
}
_OF_CALLER = {
    "twinforce_caller_evaluations_total": "n_evaluations",
    "twinforce_caller_atoms_total": "n_atoms",
    "twinforce_caller_device_seconds_total": "device_s",
}
_OF_SERVICE = {
    "twinforce_queue_requests": "n_waiting",
    "twinforce_queue_atoms": "n_waiting_atoms",
    "twinforce_propagations": "n_runs",
    "twinforce_engine_restarts_total": "n_restarts",
}
_MEMORY = "twinforce_device_memory_bytes"
# Memory of a device -> its value from those of two engines on it.
_OF_ENGINES: Mapping[str, Callable[[float, float], float]] = {
    "used_bytes": add,
    "reserved_bytes": add,
    "free_bytes": min,
}
_NAMES = (*_OF_MODEL, *_OF_CALLER, *_OF_SERVICE, _MEMORY)

# Ends of the names of attributes that are no whole numbers.
_REAL = ("_s", "_fill")
# Seconds for which a reading of the metrics is kept, as it takes some milliseconds.
_KEEP_S = 0.5

_Counts = defaultdict[str, dict[str, float]]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Reading:
    """The metrics at a time."""

    time: float
    models: _Counts
    devices: _Counts
    callers: _Counts
    service: Mapping[str, int]


class StatusReader:
    """Reads the state of the service.

    Args:
        engine: Evaluates systems.
        metrics: Metrics to read.
        intake: Intake of the calls; the service is not ready any more when it closes.
        environments: Environments of each model by its name, if they are known.
        names_callers: True to tell the usage of all callers to those who may see metrics.
        clock: Time in s, which only ever grows.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        intake: Intake,
        environments: Mapping[str, Sequence[str]],
        clock: Callable[[], float] = time.monotonic,
        *,
        names_callers: bool = True,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._intake = intake
        self._environments = environments
        self._clock = clock
        self._began = clock()
        self._names_callers = names_callers
        self._start_id = secrets.token_hex(8)
        self._reading: _Reading | None = None

    def of_caller(self) -> ServiceStatus:
        """Return what the caller of the current request may see.

        Counts may be half a second old, as of the time `uptime_s`.
        """
        status = self._status(self._recent())
        allows, own, may_see_metrics = permission.get().allows, caller.get().name, _sees_metrics()
        models = tuple(each for each in status.models if allows(each.name))
        may_see_all = self._names_callers and may_see_metrics
        return replace(
            status,
            models=models if may_see_metrics else tuple(map(_without_counts, models)),
            callers=tuple(each for each in status.callers if may_see_all or each.name == own),
        )

    def of_service(self) -> ServiceStatus:
        """Return all that a caller may see who may see metrics, as it is now."""
        status = self._status(self._read())
        return status if self._names_callers else replace(status, callers=())

    def _recent(self) -> _Reading:
        if self._reading is None or self._clock() - self._reading.time >= _KEEP_S:
            self._reading = self._read()
        return self._reading

    def _read(self) -> _Reading:
        models, devices, callers = (_Counts(dict) for _ in range(3))
        service: dict[str, int] = dict.fromkeys(_OF_SERVICE.values(), 0)
        now = self._clock()
        for family in self._metrics.registry.restricted_registry(_NAMES).collect():
            for sample in family.samples:
                labels, value = sample.labels, sample.value
                if name := _OF_MODEL.get(sample.name):
                    models[labels["model"]][name] = value
                elif name := _OF_CALLER.get(sample.name):
                    callers[labels["caller"]][name] = value
                elif sample.name == _MEMORY:
                    memory, name = devices[labels["device"]], f"{labels['kind']}_bytes"
                    merge = _OF_ENGINES[name]
                    memory[name] = merge(memory[name], value) if name in memory else value
                elif name := _OF_SERVICE.get(sample.name):
                    service[name] += int(value)
        return _Reading(now, models, devices, callers, service)

    def _status(self, found: _Reading) -> ServiceStatus:
        counts = found.models
        return ServiceStatus(
            version=service_version(),
            uptime_s=found.time - self._began,
            is_alive=self._engine.is_alive,
            is_ready=self._engine.is_ready and not self._intake.is_closing,
            models=tuple(self._model(name, counts.get(name, {})) for name in self._engine.models),
            devices=tuple(_made(DeviceStatus, *each) for each in found.devices.items()),
            callers=tuple(_made(CallerUsage, *each) for each in found.callers.items()),
            start_id=self._start_id,
            **found.service,
        )

    def _model(self, name: str, found: Mapping[str, float]) -> ModelStatus:
        counts = {**dict.fromkeys(_OF_MODEL.values(), 0.0), **found}
        counts["batch_fill"] /= max(counts["n_batches"], 1)
        return replace(
            _made(ModelStatus, name, counts),
            is_available=name in self._engine.available_models,
            environments=tuple(self._environments.get(name, ())),
        )


def _without_counts(model: ModelStatus) -> ModelStatus:
    return ModelStatus(model.name, model.is_available, model.environments)


def _made(kind: Callable[..., _T], name: str, found: Mapping[str, float]) -> _T:
    """Return an object of this name; its counts are whole numbers, and its times are not."""
    whole = {each: int(value) for each, value in found.items() if not each.endswith(_REAL)}
    return kind(name, **{**found, **whole})


def _sees_metrics() -> bool:
    try:
        permission.get().require(METRICS)
    except PermissionDeniedError:
        return False
    return True
