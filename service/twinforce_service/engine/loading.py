"""Set up torch and load the models of a specification."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from twinforce_models.loading.source import Trust
from twinforce_models.memory import keep_freed_memory
from twinforce_models.potentials.hybrid_net.compilation.compiling import compiled
from twinforce_models.registry import LoadedModel, load
from twinforce_models.tables.predictor import TablePredictor
from twinforce_models.tables.search import check_search
from twinforce_proto import ModelLoadError
from twinforce_service.engine.evaluation import MAX_PADDING
from twinforce_service.engine.spec import EngineSpec

logger = logging.getLogger(__name__)


def load_models(
    spec: EngineSpec, load_others: Callable[[], Mapping[str, LoadedModel]] | None = None
) -> Mapping[str, LoadedModel]:
    """Set up torch for this process, and return the models by name.

    Args:
        spec: Settings of torch, and the models.
        load_others: Returns other models that replace those of the specification.

    Raises:
        ModelLoadError: A model cannot be loaded.
    """
    configure_torch(spec.n_threads, spec.matmul_precision)
    if load_others is not None:
        return load_others()
    device = choose_device(spec.device)
    if device.type == "cuda" and spec.memory_share < 1:
        torch.cuda.set_per_process_memory_fraction(spec.memory_share, device)
    dtype = None if spec.dtype == "auto" else spec.dtype
    trust = Trust(spec.trust_pickles, spec.trust_packages)
    loaded = {
        name: load(source, device=device, dtype=dtype, name=name, trust=trust)
        for name, source in spec.models.items()
    }
    if spec.compile != "off":
        loaded = {name: _compiled(spec, model) for name, model in loaded.items()}
    if device.type == "cuda" and _can_search(spec, loaded):
        loaded = {name: _with_tables(spec, model) for name, model in loaded.items()}
    return loaded


def configure_torch(n_threads: int, matmul_precision: str = "highest") -> None:
    """Set the global state of torch and of the allocator, once per process.

    Args:
        n_threads: Number of CPU threads that one operation may use.
        matmul_precision: "highest", or "high" for TF32 on GPUs that have it. TF32 is never used
            unless requested, because it ruins tight optimizations and phonons.
    """
    keep_freed_memory()
    torch.set_num_threads(n_threads)
    torch.set_float32_matmul_precision(matmul_precision)
    torch.backends.cudnn.allow_tf32 = matmul_precision != "highest"


def choose_device(name: str) -> torch.device:
    """Return the device of this name, and make it the current CUDA device of this thread.

    Args:
        name: Name of a device; "auto" is the first GPU if there is one.

    Raises:
        ModelLoadError: There is no such GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":  # kernels, streams and graphs are made for the current device
        n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= n_gpus:
            build = f"PyTorch {torch.__version__}"
            raise ModelLoadError(
                f"device {name!r}: expected a GPU, got {n_gpus} that {build} can use"
            )
        torch.cuda.set_device(device.index or 0)
    return device


def _compiled(spec: EngineSpec, model: LoadedModel) -> LoadedModel:
    folder, wait = Path(spec.compile_cache), spec.compile == "on"
    return replace(model, potential=compiled(model.potential, folder, spec.n_threads, wait=wait))


def _can_search(spec: EngineSpec, loaded: Mapping[str, LoadedModel]) -> bool:
    """Return True if the kernels of tables work on the device; otherwise log the reason."""
    if spec.compile_cache:  # keep kernels beside compiled networks, unless they have a place
        folder = Path(spec.compile_cache).expanduser() / "triton"
        os.environ.setdefault("TRITON_CACHE_DIR", str(folder))
    device = next(iter(loaded.values())).potential.device
    try:
        check_search(device)
    except Exception as error:  # a missing or outdated compiler can raise anything
        reason = f"{type(error).__name__}: {error}"
        logger.warning("%s runs without table kernels, several times slower: %s", device, reason)
        return False
    return True


def _with_tables(spec: EngineSpec, model: LoadedModel) -> LoadedModel:
    limits = spec.limits
    max_entries = MAX_PADDING * max(limits.max_batch_pairs, limits.max_pairs_per_system)
    return replace(model, tables=TablePredictor(model.potential, max_entries))
