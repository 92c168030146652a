"""From what an engine is to serve to loaded models; the only way to torch from a specification."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from twinforce_models.compilation.compiling import compiled
from twinforce_models.registry import LoadedModel, load
from twinforce_models.tables.predictor import TablePredictor
from twinforce_models.tables.search import check_search
from twinforce_service.engine_spec import EngineSpec
from twinforce_service.evaluation import MAX_PADDING, choose_device, configure_torch

logger = logging.getLogger(__name__)


def load_models(
    spec: EngineSpec, load_others: Callable[[], Mapping[str, LoadedModel]] | None = None
) -> Mapping[str, LoadedModel]:
    """Set torch up for this process, and load the models under the names they are served by.

    Args:
        spec: Says how, and which.
        load_others: Gives others instead.

    Raises:
        ModelLoadError: One cannot be loaded.
    """
    configure_torch(spec.n_threads, spec.matmul_precision)
    if load_others is not None:
        return load_others()
    device = choose_device(spec.device)
    dtype = None if spec.dtype == "auto" else spec.dtype
    loaded = {
        name: load(each, device=device, dtype=dtype, name=name)
        for name, each in spec.models.items()
    }
    if spec.compile != "off":
        loaded = {name: _compiled(spec, model) for name, model in loaded.items()}
    if device.type == "cuda" and _can_search(spec, loaded):
        loaded = {name: _with_tables(spec, model) for name, model in loaded.items()}
    return loaded


def _can_search(spec: EngineSpec, loaded: Mapping[str, LoadedModel]) -> bool:
    """Tell whether the kernels of tables work on the device; if not, the log says why."""
    if spec.compile_cache:  # kernels are kept where compiled networks are, if nowhere else
        folder = Path(spec.compile_cache).expanduser() / "triton"
        os.environ.setdefault("TRITON_CACHE_DIR", str(folder))
    device = next(iter(loaded.values())).potential.device
    try:
        check_search(device)
    except Exception as error:  # whatever a compiler that is missing or too old does
        why = f"{type(error).__name__}: {error}"
        logger.warning("%s is used the ordinary way, several times slower: %s", device, why)
        return False
    return True


def _with_tables(spec: EngineSpec, model: LoadedModel) -> LoadedModel:
    limits = spec.limits
    max_entries = MAX_PADDING * max(limits.max_batch_pairs, limits.max_pairs_per_system)
    return replace(model, tables=TablePredictor(model.potential, max_entries))


def _compiled(spec: EngineSpec, model: LoadedModel) -> LoadedModel:
    folder, wait = Path(spec.compile_cache), spec.compile == "on"
    return replace(model, potential=compiled(model.potential, folder, spec.n_threads, wait=wait))
