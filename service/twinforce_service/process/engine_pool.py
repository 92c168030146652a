"""Several engines, one for each device, as one."""

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
    """Engines that serve the same models; each request goes to the least loaded one.

    The load of an engine is the atoms that wait for its device or are on it. Walkers stay where
    they began, and begin where walkers have the fewest atoms. While the process of an engine is
    restarted, the others take over.

    Args:
        engines: At least one.
    """

    def __init__(self, engines: Sequence[ProcessEngine]) -> None:
        self._engines = engines
        self._choosing = Lock()
        # Where each walker is, and how many atoms it has.
        self._homes: WeakKeyDictionary[Walker, tuple[ProcessEngine, int]] = WeakKeyDictionary()

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """What each served model declares, on the first device; empty while they are loaded."""
        return self._engines[0].models

    @property
    def is_ready(self) -> bool:
        """Whether requests are accepted: all devices were ready once, and one is now."""
        return self._have_started() and any(engine.is_ready for engine in self._engines)

    @property
    def is_alive(self) -> bool:
        """Whether it may become ready, is, or was until it was told to stop."""
        are_alive = [engine.is_alive for engine in self._engines]
        return any(are_alive) if self._have_started() else all(are_alive)

    @property
    def n_waiting(self) -> int:
        """How many requests wait for a device."""
        return sum(engine.n_waiting for engine in self._engines)

    @property
    def n_waiting_atoms(self) -> int:
        """How many atoms they have."""
        return sum(engine.n_waiting_atoms for engine in self._engines)

    def start(self) -> None:
        """Start all processes."""
        for engine in self._engines:
            engine.start()

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Return when requests are accepted on every device.

        Raises:
            ModelLoadError: A model could not be loaded or evaluated on one of them.
            UnavailableError: It was stopped first, or `timeout` s have passed for one of them.
        """
        for engine in self._engines:
            engine.wait_until_ready(timeout)

    def find(self, model: str) -> ModelInfo:
        """Return what a model declares, or raise `UnknownModelError` or `UnavailableError`."""
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
        """Accept a journey, or raise a `ServiceError`; return what lets it tell more."""
        with self._choosing:
            loads = {engine: engine.n_pending_atoms for engine in self._ready()}
            engine = self._home(run.walker, run.n_atoms, loads)
        return engine.start_run(run)

    def stop(self, timeout: float | None = None) -> None:
        """Accept nothing more, finish what was accepted, and stop."""
        with ThreadPoolExecutor(len(self._engines)) as executor:
            for stopped in [executor.submit(each.stop, timeout) for each in self._engines]:
                stopped.result()

    def _have_started(self) -> bool:
        return all(engine.models for engine in self._engines)

    def _ready(self) -> Sequence[ProcessEngine]:
        return [engine for engine in self._engines if engine.is_ready] or self._engines[:1]

    def _shares(
        self, requests: Sequence[Request[Any]]
    ) -> list[tuple[ProcessEngine, list[Request[Any]]]]:
        """Return which engine is to evaluate which of the requests."""
        shares: dict[ProcessEngine, list[Request[Any]]] = {}
        loads = {engine: engine.n_pending_atoms for engine in self._ready()}
        for request in requests:
            engine = self._home(request.walker, request.n_atoms, loads)
            loads[engine] += request.n_atoms
            shares.setdefault(engine, []).append(request)
        return list(shares.items())

    def _home(
        self, walker: Walker | None, n_atoms: int, loads: Mapping[ProcessEngine, int]
    ) -> ProcessEngine:
        if walker is None:
            return min(loads, key=loads.__getitem__)
        home = self._homes.get(walker)
        if home is None or home[0] not in loads:
            home = self._homes[walker] = min(loads, key=self._atoms_of_walkers), n_atoms
        return home[0]

    def _atoms_of_walkers(self, engine: ProcessEngine) -> int:
        return sum(n_atoms for home, n_atoms in self._homes.values() if home is engine)
