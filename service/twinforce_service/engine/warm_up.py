"""Evaluate small systems before a model is served: to warm it up, and to measure its memory."""

import numpy as np
import torch

from twinforce_models.registry import LoadedModel
from twinforce_proto import ModelLoadError, System, needs_autograd
from twinforce_service.engine.evaluation import make_batch, predict, recover, summary

# Å; edge of the cell of the warm-up system, and distance of its two atoms.
_WARM_UP_CELL, _WARM_UP_DISTANCE = 12.0, 1.5
# Atoms along the edge of each lattice that memory is measured with, and their distance in Å.
_LATTICES = ((8, 3.0), (8, 2.0), (16, 3.0), (16, 2.0), (20, 2.5))


def warm_up(model: LoadedModel) -> None:
    """Evaluate a small system for each kind of request, so that no client waits for it.

    Raises:
        ModelLoadError: The model cannot be evaluated.
    """
    supported = frozenset(model.info.outputs)
    system = _pair(model.info.elements[0])
    for outputs in (supported, _without_autograd(supported)):
        try:
            if outputs:
                predict(model, [system, system], outputs)
        except Exception as error:
            raise ModelLoadError(
                f"model {model.info.name!r} cannot be evaluated: {summary(error)}"
            ) from error


def memory_samples(
    model: LoadedModel, *, with_autograd: bool, memory_share: float = 1.0
) -> tuple[list[tuple[int, int, int]], int]:
    """Evaluate lattices and measure their memory; on a CPU there are no samples.

    Args:
        model: The model.
        with_autograd: True to evaluate outputs that need autograd as well.
        memory_share: Part of the memory of the device that this process may use.

    Returns:
        Number of atoms, number of pairs and bytes of each lattice; and the number of free bytes.
    """
    device = model.potential.device
    outputs = frozenset(model.info.outputs)
    if not with_autograd:
        outputs = _without_autograd(outputs)
    if device.type != "cuda" or not outputs:
        return [], 0
    samples: list[tuple[int, int, int]] = []
    for side, distance in _LATTICES:
        try:
            system = _lattice(model.info.elements[0], side, distance)
            n_pairs = make_batch(model, [system]).n_pairs
            torch.cuda.synchronize(device)
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            predict(model, [system], outputs)
        except torch.OutOfMemoryError as error:
            recover(model, error)
            break
        taken = torch.cuda.max_memory_allocated(device) - before
        samples.append((len(system), n_pairs, max(taken, 1)))
    torch.cuda.empty_cache()
    return samples, _n_free(device, memory_share)


def _n_free(device: torch.device, memory_share: float) -> int:
    """Return the bytes that are free for this process."""
    n_free, n_total = torch.cuda.mem_get_info(device)
    n_own = int(memory_share * n_total) - torch.cuda.memory_reserved(device)
    return max(min(n_free, n_own), 0)


def _without_autograd(outputs: frozenset[str]) -> frozenset[str]:
    return frozenset(name for name in outputs if not needs_autograd({name}))


def _pair(element: int) -> System:
    positions = [[0.0, 0.0, 0.0], [_WARM_UP_DISTANCE, 0.0, 0.0]]
    return System([element, element], positions, np.eye(3) * _WARM_UP_CELL, pbc=True)


def _lattice(element: int, side: int, distance: float) -> System:
    """Return a periodic cube of atoms."""
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1)
    positions = distance * grid.reshape(-1, 3)
    cell = np.eye(3) * distance * side
    return System([element] * len(positions), positions, cell, pbc=True)
