"""Several engines, one for each device, used as one engine."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from twinforce_proto import ModelInfo, ServiceError
from twinforce_service.engine.runs import Credit, Run
from twinforce_service.process.process_engine import ProcessEngine
from twinforce_service.scheduling.request import Request, Walker


class EnginePool:
    """Engines that serve the same models; each request goes to the least loaded engine.

    The load of an engine is the number of atoms that wait for its device or are on it. A walker
    begins on the engine whose walkers have the fewest atoms, and stays there. While the process of
    an engine is restarted, the other engines take over.

    Args:
        engines: At least one.
    """

    def __init__(self, engines: Sequence[ProcessEngine]) -> None:
        self._engines = engines
        self._choosing = Lock()
        # Engine and number of atoms of each walker.
        self._homes: WeakKeyDictionary[Walker, tuple[ProcessEngine, int]] = WeakKeyDictionary()

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """Declaration of each model on the first device by name; empty until they are loaded."""
        return self._engines[0].models

    @property
    def is_ready(self) -> bool:
        """True once all engines have been ready, while at least one accepts requests."""
        return self._have_started() and any(engine.is_ready for engine in self._engines)

    @property
    def is_alive(self) -> bool:
        """False if all engines have failed, or if one did not start."""
        are_alive = [engine.is_alive for engine in self._engines]
        return any(are_alive) if self._have_started() else all(are_alive)

    @property
    def n_waiting(self) -> int:
        """Number of requests that wait for a device."""
        return sum(engine.n_waiting for engine in self._engines)

    @property
    def n_waiting_atoms(self) -> int:
        """Number of atoms of the requests that wait for a device."""
        return sum(engine.n_waiting_atoms for engine in self._engines)

    def start(self) -> None:
        """Start all processes."""
        for engine in self._engines:
            engine.start()

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Return when all engines accept requests.

        Args:
            timeout: Seconds to wait for each engine; None means no limit.

        Raises:
            ModelLoadError: A model could not be loaded or evaluated on one of the devices.
            UnavailableError: The engines were stopped first, or the time is up.
        """
        for engine in self._engines:
            engine.wait_until_ready(timeout)

    def find(self, model: str) -> ModelInfo:
        """Return the declaration of a model.

        Raises:
            UnknownModelError: No such model is served.
            UnavailableError: The models are not loaded.
        """
        return self._engines[0].find(model)

    def submit(self, requests: Sequence[Request[Any]]) -> None:
        """Accept all of the requests, or raise a `ServiceError` and accept none."""
        with self._choosing:
            shares = self._shares(requests)
        accepted: list[Request[Any]] = []
        try:
            for engine, share in shares:
                engine.submit(share)
                accepted += share
        except ServiceError:
            for request in accepted:
                request.future.cancel()
            raise

    def start_run(self, run: Run) -> Credit:
        """Accept a run, or raise a `ServiceError`; return the function that adds credit."""
        with self._choosing:
            engine = self._home(run.walker, run.n_atoms, self._loads())
        return engine.start_run(run)

    def stop(self, timeout: float | None = None) -> None:
        """Accept no more requests, finish the accepted ones, and stop."""
        with ThreadPoolExecutor(len(self._engines)) as executor:
            for stopped in [executor.submit(engine.stop, timeout) for engine in self._engines]:
                stopped.result()

    def _have_started(self) -> bool:
        return all(engine.models for engine in self._engines)

    def _loads(self) -> dict[ProcessEngine, int]:
        """Return the load of each engine that is ready; if none is, of the first."""
        ready = [engine for engine in self._engines if engine.is_ready] or self._engines[:1]
        return {engine: engine.n_pending_atoms for engine in ready}

    def _shares(
        self, requests: Sequence[Request[Any]]
    ) -> list[tuple[ProcessEngine, list[Request[Any]]]]:
        """Return the requests of each engine."""
        shares: dict[ProcessEngine, list[Request[Any]]] = {}
        loads = self._loads()
        for request in requests:
            engine = self._home(request.walker, request.n_atoms, loads)
            loads[engine] += request.n_atoms
            shares.setdefault(engine, []).append(request)
        return list(shares.items())

    def _home(
        self, walker: Walker | None, n_atoms: int, loads: Mapping[ProcessEngine, int]
    ) -> ProcessEngine:
        """Return the engine of a walker, or the least loaded engine."""
        if walker is None:
            return min(loads, key=loads.__getitem__)
        home = self._homes.get(walker)
        if home is None or home[0] not in loads:
            home = self._homes[walker] = min(loads, key=self._atoms_of_walkers), n_atoms
        return home[0]

    def _atoms_of_walkers(self, engine: ProcessEngine) -> int:
        return sum(n_atoms for home, n_atoms in self._homes.values() if home is engine)
