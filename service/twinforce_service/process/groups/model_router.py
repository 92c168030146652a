"""Engines that serve different models, used as one engine."""

from collections.abc import Mapping, Sequence
from typing import Any

from twinforce_dynamics.codec.checkpoint import CheckpointSummary
from twinforce_dynamics.requests import PropagateRequest, RelaxRequest
from twinforce_proto import ModelInfo
from twinforce_service.engine.engine import Engine, OwnedEngine
from twinforce_service.engine.runs import Credit, Run
from twinforce_service.process.groups.engine_group import EngineGroup, submit_all
from twinforce_service.process.groups.split_hybrid import SplitHybrid
from twinforce_service.scheduling.admission import unknown_model
from twinforce_service.scheduling.request import Request


class ModelRouter(EngineGroup):
    """Engines of different environments; each request goes to the engine of its model.

    While the process of one engine is restarted, its models are unavailable, and no others.

    Args:
        engines: At least one; all of them are owned.
        engine_of: The engine, or the split hybrid, that answers for each served model, by name.
    """

    def __init__(
        self, engines: Sequence[OwnedEngine], engine_of: Mapping[str, Engine | SplitHybrid]
    ) -> None:
        super().__init__(engines)
        self._engine_of = engine_of
        self._hybrids = [each for each in engine_of.values() if isinstance(each, SplitHybrid)]

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """Declaration of each served model by name, as far as they are loaded."""
        found = {name: engine.models.get(name) for name, engine in self._engine_of.items()}
        return {name: info for name, info in found.items() if info is not None}

    @property
    def available_models(self) -> Sequence[str]:
        """Names of the models whose engines accept requests."""
        return [name for name, engine in self._engine_of.items() if engine.is_ready]

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Return when all engines accept requests.

        Args:
            timeout: Seconds to wait for each engine; None means no limit.

        Raises:
            ModelLoadError: A model could not be loaded or evaluated by one of the engines, or the
                parts of a split hybrid do not match.
            UnavailableError: The engines were stopped first, or the time is up.
        """
        super().wait_until_ready(timeout)
        for hybrid in self._hybrids:
            hybrid.check()

    def stop(self, timeout: float | None = None) -> None:
        """Accept no more requests, finish the accepted ones, and stop."""
        for hybrid in self._hybrids:
            hybrid.stop()
        super().stop(timeout)

    def find(self, model: str) -> ModelInfo:
        """Return the declaration of a model.

        Raises:
            UnknownModelError: No such model is served.
            UnavailableError: The model is not loaded.
        """
        return self._engine(model).find(model)

    def submit(self, requests: Sequence[Request[Any]]) -> None:
        """Accept all of the requests, or raise a `ServiceError` and accept none."""
        shares: dict[str, list[Request[Any]]] = {}
        for request in requests:
            shares.setdefault(request.model, []).append(request)
        submit_all([(self._engine(model), share) for model, share in shares.items()])

    def start_run(self, run: Run) -> Credit:
        """Accept a run, or raise a `ServiceError`; return the function that adds credit."""
        return self._engine(_model_of(run.request)).start_run(run)

    def _engine(self, model: str) -> Engine:
        """Return the engine of a model, or raise `UnknownModelError`."""
        if (engine := self._engine_of.get(model)) is None:
            raise unknown_model(model, self._engine_of)
        return engine


def _model_of(request: PropagateRequest | RelaxRequest) -> str:
    """Return the model of a run, which a checkpoint knows if the request names none."""
    if request.model or isinstance(request, RelaxRequest):
        return request.model
    origin = request.origin
    return CheckpointSummary.from_bytes(origin).model if isinstance(origin, bytes) else ""
