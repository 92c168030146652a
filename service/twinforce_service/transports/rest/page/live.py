"""The live state of the service, taken once a second for all who follow it."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from typing import Any

import orjson

from twinforce_proto import OverloadedError
from twinforce_service.callers.permission import METRICS
from twinforce_service.calls.intake import Intake
from twinforce_service.context import check_again, permission
from twinforce_service.engine.engine import Engine
from twinforce_service.metrics import Metrics

_INTERVAL_S = 1.0
# Seconds between looks whether the service stops.
_STEP_S = 0.1
# Browsers that follow at once; each costs a small message per second.
_MAX_VIEWERS = 32
_RETRY_AFTER_S = 10.0

# Sample of the metrics -> its name in the state, for counts of each model and of each caller.
_OF_MODEL = {
    "twinforce_evaluations_total": "n_evaluations",
    "twinforce_atoms_total": "n_atoms",
    "twinforce_batch_systems_count": "n_batches",
    "twinforce_compute_seconds_sum": "device_s",
    "twinforce_queue_seconds_sum": "queue_s",
}
_OF_CALLER = {
    "twinforce_caller_device_seconds_total": "device_s",
    "twinforce_caller_evaluations_total": "n_evaluations",
}
_OF_SERVICE = {
    "twinforce_queue_requests": "n_waiting",
    "twinforce_queue_atoms": "n_waiting_atoms",
    "twinforce_propagations": "n_runs",
}
_DISAGREEMENT = "twinforce_force_disagreement_bucket"
_RESTARTS = "twinforce_engine_restarts_total"


class LiveState:
    """The state of the service, and those who follow it.

    Args:
        engine: Evaluates systems.
        metrics: Metrics to read.
        intake: Intake of the calls; when it closes, nobody follows any more.
        clock: Time in s, which only ever grows.
        has_callers: True to show what each caller has used.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        intake: Intake,
        clock: Callable[[], float] = time.monotonic,
        *,
        has_callers: bool = True,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._intake = intake
        self._clock = clock
        self._has_callers = has_callers
        self._n_viewers = 0
        self._event = b""
        self._taken_at = float("-inf")

    async def follow(self) -> AsyncGenerator[bytes, None]:
        """Yield the states as server-sent events, one now and one each second, until the stop.

        Raises:
            OverloadedError: Too many follow already.
            UnauthenticatedError: The key of the viewer was revoked.
            PermissionDeniedError: It is not for metrics.
        """
        if self._n_viewers >= _MAX_VIEWERS:
            text = f"{_MAX_VIEWERS} viewers follow the state of the service already"
            raise OverloadedError(text, retry_after=_RETRY_AFTER_S)
        self._n_viewers += 1
        try:
            while not self._intake.is_closing:
                check_again.get()()
                permission.get().require(METRICS)
                yield self._latest()
                ends_at = self._taken_at + _INTERVAL_S
                while (left := ends_at - self._clock()) > 0 and not self._intake.is_closing:
                    await asyncio.sleep(min(left, _STEP_S))
            yield b"event: end\ndata: {}\n\n"
        finally:
            self._n_viewers -= 1

    def _latest(self) -> bytes:
        """Return the event of this second, which the first who asks for it makes."""
        now = self._clock()
        if now - self._taken_at >= _INTERVAL_S:
            self._event = b"data: " + orjson.dumps(self.state()) + b"\n\n"
            self._taken_at = now
        return self._event

    def state(self) -> dict[str, Any]:
        """Return the state: what is now, and counts since the start of the service."""
        available = set(self._engine.available_models)
        models: dict[str, Any] = {
            name: dict.fromkeys(_OF_MODEL.values(), 0.0)
            | {"is_available": name in available, "disagreement": []}
            for name in self._engine.models
        }
        callers: dict[str, dict[str, float]] = defaultdict(dict)
        service = {"n_restarts": 0.0}
        for family in self._metrics.registry.collect():
            for sample in family.samples:
                model = models.get(sample.labels.get("model", ""))
                if (name := _OF_MODEL.get(sample.name)) and model is not None:
                    model[name] = sample.value
                elif sample.name == _DISAGREEMENT and model is not None:
                    model["disagreement"].append([sample.labels["le"], sample.value])
                elif name := _OF_CALLER.get(sample.name):
                    callers[sample.labels["caller"]][name] = sample.value
                elif name := _OF_SERVICE.get(sample.name):
                    service[name] = sample.value
                elif sample.name == _RESTARTS:
                    service["n_restarts"] += sample.value
        return {
            "time_s": self._clock(),
            "is_ready": self._engine.is_ready and not self._intake.is_closing,
            "models": models,
            "callers": callers if self._has_callers else {},
        } | service
