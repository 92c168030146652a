"""The live state of the service, taken once a second for all who follow it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict
from typing import Any

import orjson

from twinforce_proto import OverloadedError
from twinforce_service.callers.permission import METRICS
from twinforce_service.calls.intake import Intake
from twinforce_service.calls.status import StatusReader
from twinforce_service.context import check_again, permission
from twinforce_service.metrics import Metrics

_INTERVAL_S = 1.0
# Seconds between looks whether the service stops.
_STEP_S = 0.1
# Browsers that follow at once; each costs a small message per second.
_MAX_VIEWERS = 32
_RETRY_AFTER_S = 10.0

_DISAGREEMENT = "twinforce_force_disagreement_bucket"


class LiveState:
    """The state of the service, and those who follow it.

    Args:
        status: Reads the state.
        metrics: Metrics to read the disagreement of forces from.
        intake: Intake of the calls; when it closes, nobody follows any more.
        clock: Time in s, which only ever grows.
    """

    def __init__(
        self,
        status: StatusReader,
        metrics: Metrics,
        intake: Intake,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._metrics = metrics
        self._intake = intake
        self._clock = clock
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
        state = asdict(self._status.of_service())
        models = {each["name"]: each | {"disagreement": []} for each in state["models"]}
        for family in self._metrics.registry.restricted_registry([_DISAGREEMENT]).collect():
            for sample in family.samples:
                if (model := models.get(sample.labels["model"])) is not None:
                    model["disagreement"].append([sample.labels["le"], sample.value])
        callers = {each["name"]: each for each in state["callers"]}
        return state | {"time_s": self._clock(), "models": models, "callers": callers}
