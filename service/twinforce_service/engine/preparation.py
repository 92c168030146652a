"""The preparation of an engine: load its models, warm them up and measure their memory."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from twinforce_models.registry import LoadedModel
from twinforce_proto import ModelLoadError
from twinforce_service.engine.evaluation import summary
from twinforce_service.engine.warm_up import memory_samples, warm_up
from twinforce_service.scheduling.budgets import Budgets, fit_budget


def prepared(
    load: Callable[[], Mapping[str, LoadedModel]],
    budgets: Budgets,
    memory_share: float,
    note_warm_up: Callable[[str, float], None],
) -> Mapping[str, LoadedModel]:
    """Return models that are ready for requests, by name.

    Args:
        load: Returns the models by name.
        budgets: Told how much memory the batches of each model may take.
        memory_share: Part of the memory of a GPU that the engine may use.
        note_warm_up: Told the name of each model, and the time of its warm-up in s.

    Raises:
        ModelLoadError: A model cannot be loaded or evaluated.
    """
    try:
        models = {
            name: replace(model, info=replace(model.info, name=name))
            for name, model in load().items()
        }
        for model in models.values():
            started = time.monotonic()
            warm_up(model)
            note_warm_up(model.info.name, time.monotonic() - started)
            _measure_memory(model, budgets, memory_share)
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(summary(error)) from error
    return models


def _measure_memory(model: LoadedModel, budgets: Budgets, memory_share: float) -> None:
    for with_autograd in (False, True):
        samples = memory_samples(model, with_autograd=with_autograd, memory_share=memory_share)
        if (budget := fit_budget(*samples)) is not None:
            budgets.set(model.info.name, budget, with_autograd=with_autograd)
