"""From what an engine is to serve to loaded models; the only way to torch from a specification."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from twinforce_models.memory import keep_freed_memory
from twinforce_models.potentials.hybrid_net.compilation.compiling import compiled
from twinforce_models.registry import LoadedModel, load
from twinforce_models.tables.predictor import TablePredictor
from twinforce_models.tables.search import check_search
from twinforce_proto import (
    ModelLoadError,
    System,
    needs_autograd,
)
from twinforce_service.engine.evaluation import (
    MAX_PADDING,
    _batch,
    _predicted,
    recover,
    summary,
)
from twinforce_service.engine.spec import EngineSpec

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


# Atoms along an edge of the lattices that memory is measured with, and Å between them.
_TRIED = ((8, 3.0), (8, 2.0), (16, 3.0), (16, 2.0), (20, 2.5))


# Å; of the system that models are warmed up with.
_WARM_UP_CELL, _WARM_UP_DISTANCE = 12.0, 1.5


def configure_torch(n_threads: int, matmul_precision: str = "highest") -> None:
    """Set what is global in torch and under it, once per process.

    Args:
        n_threads: Of the CPU, for one operation.
        matmul_precision: "highest", or "high" for TF32 on GPUs that have it, which nobody gets
            who has not asked: it ruins tight optimisations and phonons.
    """
    keep_freed_memory()
    torch.set_num_threads(n_threads)
    torch.set_float32_matmul_precision(matmul_precision)
    torch.backends.cudnn.allow_tf32 = matmul_precision != "highest"


def choose_device(wanted: str) -> torch.device:
    """Return the device of this name, from now on the one that this thread means by "cuda".

    Args:
        wanted: "auto" is the first GPU where there is one.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda":  # kernels, streams and recordings are made for the current one
        torch.cuda.set_device(device)
    return device


def warm_up(model: LoadedModel) -> None:
    """Evaluate a small system in each way a request can ask for, so that no caller waits for it.

    Raises:
        ModelLoadError: The model cannot.
    """
    has = frozenset(model.info.outputs)
    system = _small_system(model.info.elements[0])
    for outputs in (has, frozenset(name for name in has if not needs_autograd({name}))):
        try:
            if outputs:
                _predicted(model, [system, system], outputs)
        except Exception as error:
            raise ModelLoadError(
                f"model {model.info.name!r} cannot be evaluated: {summary(error)}"
            ) from error


def memory_samples(
    model: LoadedModel, *, with_autograd: bool
) -> tuple[list[tuple[int, int, int]], int]:
    """Try batches, and measure what memory they take; on a CPU nothing is tried.

    Returns:
        Atoms, pairs and bytes of each; and how many bytes are free for a batch.
    """
    device = model.potential.device
    has = frozenset(model.info.outputs)
    outputs = frozenset(name for name in has if with_autograd or not needs_autograd({name}))
    if device.type != "cuda" or not outputs:
        return [], 0
    samples: list[tuple[int, int, int]] = []
    for side, distance in _TRIED:
        try:
            system = _lattice(model.info.elements[0], side, distance)
            n_pairs = _batch(model, [system]).n_pairs
            torch.cuda.synchronize(device)
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            _predicted(model, [system], outputs)
        except torch.OutOfMemoryError as error:
            recover(model, error)
            break
        taken = torch.cuda.max_memory_allocated(device) - before
        samples.append((len(system), n_pairs, max(taken, 1)))
    torch.cuda.empty_cache()
    return samples, torch.cuda.mem_get_info(device)[0]


def _small_system(element: int) -> System:
    positions = [[0.0, 0.0, 0.0], [_WARM_UP_DISTANCE, 0.0, 0.0]]
    return System([element, element], positions, np.eye(3) * _WARM_UP_CELL, pbc=True)


def _lattice(element: int, side: int, distance: float) -> System:
    """Return a periodic cube of atoms."""
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1)
    positions = distance * grid.reshape(-1, 3)
    cell = np.eye(3) * distance * side
    return System([element] * len(positions), positions, cell, pbc=True)
