"""The state of the service, from its engine and its metrics."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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

# Ends of the names of attributes that are no whole numbers.
_REAL = ("_s", "_fill")

_Counts = defaultdict[str, dict[str, float]]
_T = TypeVar("_T")


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

    def of_caller(self) -> ServiceStatus:
        """Return what the caller of the current request may see."""
        status, allows, own = self._read(), permission.get().allows, caller.get().name
        may_see_all = self._names_callers and _may_see_metrics()
        return replace(
            status,
            models=tuple(each for each in status.models if allows(each.name)),
            callers=tuple(each for each in status.callers if may_see_all or each.name == own),
        )

    def of_service(self) -> ServiceStatus:
        """Return all that a caller may see who may see metrics."""
        status = self._read()
        return status if self._names_callers else replace(status, callers=())

    def _read(self) -> ServiceStatus:
        models, devices, callers = (_Counts(dict) for _ in range(3))
        service: dict[str, int] = dict.fromkeys(_OF_SERVICE.values(), 0)
        for family in self._metrics.registry.collect():
            for sample in family.samples:
                labels, value = sample.labels, sample.value
                if name := _OF_MODEL.get(sample.name):
                    models[labels["model"]][name] = value
                elif name := _OF_CALLER.get(sample.name):
                    callers[labels["caller"]][name] = value
                elif sample.name == _MEMORY:
                    devices[labels["device"]][f"{labels['kind']}_bytes"] = value
                elif name := _OF_SERVICE.get(sample.name):
                    service[name] += int(value)
        return ServiceStatus(
            version=service_version(),
            uptime_s=self._clock() - self._began,
            is_alive=self._engine.is_alive,
            is_ready=self._engine.is_ready and not self._intake.is_closing,
            models=tuple(self._model(name, models[name]) for name in self._engine.models),
            devices=tuple(_made(DeviceStatus, name, found) for name, found in devices.items()),
            callers=tuple(_made(CallerUsage, name, found) for name, found in callers.items()),
            **service,
        )

    def _model(self, name: str, found: Mapping[str, float]) -> ModelStatus:
        status = _made(ModelStatus, name, found)
        return replace(
            status,
            is_available=name in self._engine.available_models,
            environments=tuple(self._environments.get(name, ())),
            batch_fill=status.batch_fill / max(status.n_batches, 1),
        )


def _made(kind: Callable[..., _T], name: str, found: Mapping[str, float]) -> _T:
    """Return an object of this name; its counts are whole numbers, and its times are not."""
    whole = {each: int(value) for each, value in found.items() if not each.endswith(_REAL)}
    return kind(name, **{**found, **whole})


def _may_see_metrics() -> bool:
    try:
        permission.get().require(METRICS)
    except PermissionDeniedError:
        return False
    return True
