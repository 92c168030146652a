"""A hybrid whose two parts live in different engines, used as an engine of one model.

A request for outputs of one part goes to the engine of that part. A request for both becomes two,
whose answers are joined here. Runs step in this process, as no engine has both parts.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from copy import copy
from dataclasses import dataclass, replace
from operator import is_
from typing import Any

from twinforce_models.loading.composition import compose_info
from twinforce_proto import (
    ModelInfo,
    ModelLoadError,
    Prediction,
    Provenance,
    ServiceError,
    Timings,
    UnavailableError,
)
from twinforce_proto.outputs import DIRECT_OUTPUTS
from twinforce_service.engine.engine import Engine
from twinforce_service.engine.lifecycle import shutting_down
from twinforce_service.engine.runs import Credit, Run
from twinforce_service.process.groups.engine_group import submit_all
from twinforce_service.process.groups.loop_runs import LoopRuns
from twinforce_service.scheduling.admission import Admission, unknown_model
from twinforce_service.scheduling.reply import reply
from twinforce_service.scheduling.request import Limits, Request, check_sizes
from twinforce_service.version import provenance_of


@dataclass(frozen=True, slots=True, eq=False)
class EnginePart:
    """A part of a hybrid.

    Attributes:
        engine: Engine that evaluates it.
        model: Name of its model there.
    """

    engine: Engine
    model: str

    @property
    def info(self) -> ModelInfo | None:
        """Declaration of the model, if it is loaded."""
        return self.engine.models.get(self.model)


@dataclass(frozen=True, slots=True, eq=False)
class _Whole:
    """A hybrid whose parts are loaded and match."""

    info: ModelInfo
    provenance: Provenance
    admission: Admission


class SplitHybrid:
    """An `Engine` of one hybrid, which is asked of the engines of its parts.

    Args:
        name: Name of the hybrid.
        conservative: Provides the energy, conservative forces and stress.
        direct: Provides the direct outputs.
        limits: Limits of systems.
        loop: Event loop that steps runs.
    """

    def __init__(
        self,
        name: str,
        conservative: EnginePart,
        direct: EnginePart,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._name = name
        self._parts = conservative, direct
        self._limits = limits
        # Declarations of the parts, and the hybrid that they make or the reason that they do not.
        self._declared: tuple[ModelInfo | None, ModelInfo | None] = None, None
        self._known = self._compose(None, None)
        self._runs = LoopRuns(self._submit, loop)

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """Declaration of the hybrid by name; empty until its parts are loaded, and match."""
        found = self._find()
        return {self._name: found.info} if isinstance(found, _Whole) else {}

    @property
    def available_models(self) -> Sequence[str]:
        """Name of the hybrid, if requests are accepted for both parts."""
        return list(self.models) if self.is_ready else []

    @property
    def is_ready(self) -> bool:
        """True while both parts are available."""
        return all(part.model in part.engine.available_models for part in self._parts)

    @property
    def is_alive(self) -> bool:
        """False after a failure that the engine of a part does not recover from."""
        return all(part.engine.is_alive for part in self._parts)

    def check(self) -> None:
        """Raise unless the parts are loaded and match.

        Raises:
            UnavailableError: They are not loaded.
            ModelLoadError: They do not match.
        """
        self._whole()

    def find(self, model: str) -> ModelInfo:
        """Return the declaration of the hybrid.

        Raises:
            UnknownModelError: It has another name.
            UnavailableError: Its parts are not loaded.
            ModelLoadError: Its parts do not match.
        """
        if model != self._name:
            raise unknown_model(model, [self._name])
        return self._whole().info

    def submit(self, requests: Sequence[Request[Any]]) -> None:
        """Accept all of the requests, or raise a `ServiceError` and accept none."""
        check_sizes(requests, self._limits)
        self._whole().admission.admit(requests)
        self._submit(requests)

    def start_run(self, run: Run) -> Credit:
        """Accept a run, or raise a `ServiceError`; return the function that adds credit."""
        return self._runs.start(run, self._whole().admission, self._limits)

    def stop(self, timeout: float | None = None) -> None:
        """End all runs; the engines of the parts are stopped by their owner."""
        del timeout
        self._runs.end_all(shutting_down())

    def _submit(self, requests: Sequence[Request[Any]]) -> None:
        """Ask the parts for admitted requests, and join their answers."""
        provenance = self._whole().provenance
        joints = [_Joint(request, provenance, self._asked(request)) for request in requests]
        shares: dict[EnginePart, list[Request[Any]]] = {}
        for joint in joints:
            for part, asked in joint.asked.items():
                shares.setdefault(part, []).append(asked)
        submit_all([(part.engine, share) for part, share in shares.items()])
        for joint in joints:
            joint.follow()

    def _asked(self, request: Request[Any]) -> dict[EnginePart, Request[Any]]:
        """Return the requests to the parts that have the outputs of a request."""
        outputs = request.outputs
        wanted = zip(self._parts, (outputs - DIRECT_OUTPUTS, outputs & DIRECT_OUTPUTS), strict=True)
        return {
            part: replace(
                request,
                model=part.model,
                outputs=own,
                system_index=None,
                n_pairs=0,
                future=reply(),
            )
            for part, own in wanted
            if own
        }

    def _whole(self) -> _Whole:
        """Return the hybrid, or raise the reason that there is none."""
        found = self._find()
        if isinstance(found, _Whole):
            return found
        for part in self._parts:
            part.engine.find(part.model)  # knows why it is not loaded
        raise copy(found)

    def _find(self) -> _Whole | ServiceError:
        """Return the hybrid of the parts as they are loaded now."""
        declared = self._parts[0].info, self._parts[1].info
        if not all(map(is_, declared, self._declared)):
            self._declared, self._known = declared, self._compose(*declared)
        return self._known

    def _compose(
        self, conservative: ModelInfo | None, direct: ModelInfo | None
    ) -> _Whole | ServiceError:
        if conservative is None or direct is None:
            return UnavailableError(f"the parts of {self._name} are loading", retry_after=1.0)
        try:
            info = compose_info(conservative, direct, self._name)
        except ModelLoadError as error:
            return ModelLoadError(f"model {self._name!r}: {error}")
        admission = Admission({self._name: info}, self._limits.max_pairs_per_system)
        return _Whole(info, provenance_of(info), admission)


class _Joint:
    """A request, and the requests to the parts that answer it together.

    Args:
        request: The request.
        provenance: Provenance of its answer.
        asked: Requests to the parts, the conservative one first.
    """

    def __init__(
        self,
        request: Request[Any],
        provenance: Provenance,
        asked: dict[EnginePart, Request[Any]],
    ) -> None:
        self.asked = asked
        self._request = request
        self._provenance = provenance
        self._n_answered = itertools.count(1)

    def follow(self) -> None:
        """Complete the request when the parts have answered, and cancel them with it."""
        for each in self.asked.values():
            each.future.add_done_callback(self._note)
        self._request.future.add_done_callback(self._cancel)

    def _note(self, future: "Future[Any]") -> None:
        if future.cancelled():
            return
        if (error := future.exception()) is not None:
            self._request.fail(error)  # type: ignore[arg-type] # no other is set
        elif next(self._n_answered) == len(self.asked):
            self._request.complete(self._joined())

    def _joined(self) -> Any:
        """Return the answer of the only part, or both answers as one."""
        first, *others = (each.future.result() for each in self.asked.values())
        joined = replace(first, provenance=self._provenance)
        return _with_direct(joined, *others) if others else joined

    def _cancel(self, _: object) -> None:
        for each in self.asked.values():
            each.future.cancel()


def _with_direct(conservative: Prediction, direct: Prediction) -> Prediction:
    """Return both predictions as one, with the timings of the one that took longer."""
    timings = max((conservative.timings, direct.timings), key=_duration)
    return replace(
        conservative,
        direct_forces=direct.direct_forces,
        direct_stress=direct.direct_stress,
        timings=timings,
    )


def _duration(timings: Timings | None) -> float:
    return 0.0 if timings is None else timings.queue_s + timings.compute_s
