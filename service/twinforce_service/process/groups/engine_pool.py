"""Several engines, one for each device, used as one engine."""

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from twinforce_proto import ModelInfo
from twinforce_service.engine.runs import Credit, Run
from twinforce_service.process.groups.engine_group import EngineGroup, submit_all
from twinforce_service.process.process_engine import ProcessEngine
from twinforce_service.scheduling.request import Request, Walker


class EnginePool(EngineGroup):
    """Engines that serve the same models; each request goes to the least loaded engine.

    The load of an engine is the number of atoms that wait for its device or are on it. A walker
    begins on the engine whose walkers have the fewest atoms, and stays there. While the process of
    an engine is restarted, the other engines take over.

    Args:
        engines: At least one.
    """

    def __init__(self, engines: Sequence[ProcessEngine]) -> None:
        super().__init__(engines)
        self._engines = engines
        self._choosing = Lock()
        # Engine and number of atoms of each walker.
        self._homes: WeakKeyDictionary[Walker, tuple[ProcessEngine, int]] = WeakKeyDictionary()

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """Declaration of each model on the first device by name; empty until they are loaded."""
        return self._engines[0].models

    @property
    def available_models(self) -> Sequence[str]:
        """Names of the models that requests are accepted for."""
        return list(self.models) if self.is_ready else []

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
        submit_all(shares)

    def start_run(self, run: Run) -> Credit:
        """Accept a run, or raise a `ServiceError`; return the function that adds credit."""
        with self._choosing:
            engine = self._home(run.walker, run.n_atoms, self._loads())
        return engine.start_run(run)

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
