"""The engines that a service needs, by its settings: one for each device and environment."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from twinforce_proto import ModelLoadError
from twinforce_service.engine.engine import Engine, OwnedEngine
from twinforce_service.engine.report import BatchReport
from twinforce_service.engine.spec import EngineSpec
from twinforce_service.environments.environment import MAIN, Environment, find_environments
from twinforce_service.environments.placement import PlacedModel, Placement, place
from twinforce_service.metrics import Metrics
from twinforce_service.process.groups.engine_pool import EnginePool
from twinforce_service.process.groups.model_router import ModelRouter
from twinforce_service.process.groups.split_hybrid import EnginePart, SplitHybrid
from twinforce_service.process.process_engine import ProcessEngine
from twinforce_service.process.suspects import Suspects
from twinforce_service.process.turns import DeviceTurns, TurnOf
from twinforce_service.scheduling.request import Limits
from twinforce_service.settings import Settings

if TYPE_CHECKING:
    # Torch is imported only in the process that loads the models, OpenTelemetry only for traces.
    from twinforce_models.registry import LoadedModel
    from twinforce_service.tracing.spans import CallTraces

# Returns the models of a service, by name.
LoadModels: TypeAlias = Callable[[], "Mapping[str, LoadedModel]"]


def make_engine(
    settings: Settings,
    load_models: LoadModels | None,
    metrics: Metrics,
    traces: "CallTraces | None" = None,
) -> OwnedEngine:
    """Return an engine that stands for all engines of a service; none is started yet.

    Args:
        settings: Settings of the service.
        load_models: Returns the models to serve in place of those in the settings; the engine then
            runs in a thread of this process.
        metrics: Metrics to update. Processes report in the running event loop.
        traces: Records the batches of traced calls; None if no calls are traced.

    Raises:
        ModelLoadError: There is no environment of a name that a spec mentions.
    """
    observe = _observer(metrics, traces, MAIN)
    if load_models is not None:
        return _thread_engine(settings, {}, load_models, observe)
    placement = place(settings.specs())
    if settings.engine == "thread":
        return _thread_engine(settings, _only_main(placement), None, observe)
    folder = Path(settings.environment_folder).expanduser()
    environments = find_environments(placement.specs, settings.environment, folder)
    n_engines = len(placement.specs)
    suspects = Suspects(time.monotonic)
    turns = [DeviceTurns(n_engines) for _ in settings.devices()] if n_engines > 1 else []
    engines = {
        name: _engine_of(
            settings,
            environments[name],
            specs,
            _observer(metrics, traces, name),
            metrics,
            [TurnOf(each, index) for each in turns],
            suspects,
        )
        for index, (name, specs) in enumerate(placement.specs.items())
    }
    if len(engines) == 1:
        (engine,) = engines.values()
        return engine
    routes = _routes(placement, engines, _limits(settings))
    return ModelRouter(list(engines.values()), routes)


def _only_main(placement: Placement) -> Mapping[str, str]:
    """Return the specs of the main environment, or raise if there are others."""
    if others := sorted(placement.specs.keys() - {MAIN}):
        raise ModelLoadError(
            f"environment {others[0]!r}: expected --engine process for models in other "
            "environments, got --engine thread"
        )
    return placement.specs.get(MAIN, {})


def _routes(
    placement: Placement, engines: Mapping[str, OwnedEngine], limits: Limits
) -> dict[str, Engine | SplitHybrid]:
    """Return the engine, or the split hybrid, that answers for each served model."""

    def part(placed: PlacedModel) -> EnginePart:
        return EnginePart(engines[placed.environment], placed.name)

    loop = asyncio.get_running_loop()
    return {
        name: engines[placed.environment]
        if isinstance(placed, PlacedModel)
        else SplitHybrid(name, part(placed.conservative), part(placed.direct), limits, loop)
        for name, placed in placement.models.items()
    }


def _engine_of(
    settings: Settings,
    environment: Environment,
    specs: Mapping[str, str],
    observe: Callable[[BatchReport], None],
    metrics: Metrics,
    turns: Sequence[TurnOf],
    suspects: Suspects,
) -> OwnedEngine:
    """Return the engine of an environment, or the pool of its engines.

    Args:
        settings: Settings of the service.
        environment: The environment.
        specs: Specs of its models by name.
        observe: Called with the report of each batch.
        metrics: Metrics that count restarts.
        turns: Place of the environment on each device; empty if it is the only one.
        suspects: Suspects of crashes of all engines.
    """
    loop = asyncio.get_running_loop()
    engines = [
        ProcessEngine(
            _spec(settings, specs, device, turn.turns.n_engines if turn else 1),
            observe,
            partial(metrics.count_restart, environment.name),
            loop=loop,
            environment=environment,
            turn=turn,
            suspects=suspects,
        )
        for device, turn in zip_longest(settings.devices(), turns)
    ]
    return engines[0] if len(engines) == 1 else EnginePool(engines)


def _thread_engine(
    settings: Settings,
    specs: Mapping[str, str],
    load_models: LoadModels | None,
    observe: Callable[[BatchReport], None],
) -> OwnedEngine:
    from twinforce_service.engine import loading
    from twinforce_service.engine.thread_engine import ThreadEngine

    spec = _spec(settings, specs, settings.devices()[0])
    load_all = partial(loading.load_models, spec, load_models)
    return ThreadEngine(load_all, spec.limits, observe)


def _observer(
    metrics: Metrics, traces: "CallTraces | None", environment: str
) -> Callable[[BatchReport], None]:
    """Return the function that is called with the report of each batch of an environment."""

    def observe(report: BatchReport) -> None:
        metrics.observe_batch(report, environment)
        if traces is not None and report.traces:
            traces.observe_batch(report)

    return observe


def _spec(
    settings: Settings, specs: Mapping[str, str], device: str, n_sharing: int = 1
) -> EngineSpec:
    """Return the specification of an engine that shares its device among so many."""
    return EngineSpec(
        models=specs,
        device=device,
        dtype=settings.dtype,
        trust_pickles=settings.trust_pickles,
        trust_packages=settings.trusted_packages(),
        n_threads=settings.n_threads or _default_threads(len(settings.devices())),
        matmul_precision=settings.matmul_precision,
        compile=settings.compile,
        compile_cache=settings.compile_cache,
        limits=_limits(settings),
        watchdog=settings.watchdog,
        memory_share=1.0 / n_sharing,
        log_level=settings.log_level,
        log_format=settings.log_format,
    )


def _default_threads(n_devices: int) -> int:
    """Return the threads of an engine; engines of one device take turns, so they share threads."""
    has_affinity = hasattr(os, "sched_getaffinity")
    n_cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, n_cores // 2 // n_devices)


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_batch_atoms=settings.max_batch_atoms,
        max_batch_pairs=settings.max_batch_pairs,
        max_atoms_per_system=settings.max_atoms_per_system,
        max_pairs_per_system=settings.max_pairs_per_system,
        max_waiting=settings.max_waiting,
        max_waiting_atoms=settings.max_waiting_atoms,
        max_batch_time=settings.max_batch_time,
        max_hold=settings.max_hold,
    )
