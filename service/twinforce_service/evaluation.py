"""What happens to a batch on the device; knows no queue and no futures."""

import traceback
from collections.abc import Hashable, Iterable, Sequence
from math import isfinite

import numpy as np
import torch

from twinforce_models.batch import Batch
from twinforce_models.memory import keep_freed_memory
from twinforce_models.nonconservativity import jacobian_rows
from twinforce_models.potential import DIRECT_OUTPUTS, is_separable, predict_batch, split
from twinforce_models.registry import LoadedModel
from twinforce_proto import (
    OUTPUTS,
    ModelLoadError,
    NonFinitePredictionError,
    Prediction,
    PredictionError,
    ServiceError,
    System,
    SystemTooLargeError,
    needs_autograd,
)
from twinforce_service.batching import JacobianRequest, JacobianRows, Limits, Request

_SHAPES: dict[str, tuple[int, ...]] = {
    "atom_energies": (),
    "conservative_forces": (3,),
    "direct_forces": (3,),
}
_MAX_SUMMARY = 500
# How many times as much room as its pairs need a batch may take.
MAX_PADDING = 2
# Atoms along an edge of the lattices that memory is measured with, and Å between them.
_TRIED = ((8, 3.0), (8, 2.0), (16, 3.0), (16, 2.0), (20, 2.5))
# Å; of the system that models are warmed up with.
_WARM_UP_CELL, _WARM_UP_DISTANCE = 12.0, 1.5


class DeviceLostError(Exception):
    """The device no longer answers; only a new process can use it again."""


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


def evaluate(
    model: LoadedModel, requests: Sequence[Request[Prediction]], limits: Limits
) -> list[Prediction | NonFinitePredictionError]:
    """Evaluate requests of one model together; each gets what it asked for, and maybe more.

    Args:
        model: All of them ask it.
        requests: At least one.
        limits: How many neighbor pairs a system and a batch may have.

    Raises:
        SystemTooLargeError: One of them, or all together, have more than was estimated.
        PredictionError: The potential gave too little, or the wrong shapes.
        Exception: Whatever the potential raised.
    """
    if not is_separable(model.potential):
        return _evaluated(model, requests, limits)
    answers: dict[int, Prediction | NonFinitePredictionError] = {}
    for places in _evaluated_together(requests):
        some = [requests[place] for place in places]
        answers |= zip(places, _evaluated(model, some, limits), strict=True)
    return [answers[place] for place in range(len(requests))]


def evaluate_rows(
    model: LoadedModel, request: JacobianRequest, limits: Limits
) -> JacobianRows | NonFinitePredictionError:
    """Evaluate some rows of the Jacobian of the forces of a system.

    Raises:
        SystemTooLargeError: It has more neighbor pairs than was estimated.
        Exception: Whatever the potential raised.
    """
    batch = _batch(model, [request.system])
    _check_room(batch, limits)
    (output,) = request.outputs
    values = jacobian_rows(model.potential, batch, request.rows, output).double().numpy()
    if not np.isfinite(values).all():
        return NonFinitePredictionError(
            f"{output}: the model gave NaN or infinity as a derivative for this system",
            field=output,
        )
    return JacobianRows(values)


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


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether a batch failed because it was too much for the memory of its device."""
    return isinstance(error, torch.OutOfMemoryError)


def recover(model: LoadedModel, error: Exception) -> None:
    """Make the device usable again after a batch has failed on it.

    Raises:
        DeviceLostError: It does not answer any more.
    """
    device = model.potential.device
    if device.type != "cuda":
        return
    try:
        # The frames of the traceback still hold the tensors that did not fit.
        traceback.clear_frames(error.__traceback__)
        torch.cuda.synchronize(device)
        if model.tables is not None:
            model.tables.forget()
        torch.cuda.empty_cache()
    except RuntimeError as lost:
        raise DeviceLostError(f"{device}: {lost}") from error


def failure_of(error: Exception, n_atoms: int, device: str) -> ServiceError:
    """Return what to tell the caller of a system that made the model raise this error."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return SystemTooLargeError(f"{n_atoms} atoms do not fit into the memory of {device}")
    return PredictionError(f"the model failed on this system: {summary(error)}")


def summary(error: BaseException) -> str:
    """Return the class and message of an error, cut where nobody would read on."""
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= _MAX_SUMMARY else text[:_MAX_SUMMARY] + "…"


def _evaluated_together(requests: Sequence[Request[Prediction]]) -> Iterable[Sequence[int]]:
    """Return the places of requests that share a pass of a model whose heads share nothing.

    What asks for the energy, for direct outputs or for both is kept apart, so that none pays for
    the heads of another.
    """
    places: dict[tuple[bool, bool], list[int]] = {}
    for place, request in enumerate(requests):
        kind = request.outputs <= DIRECT_OUTPUTS, request.outputs.isdisjoint(DIRECT_OUTPUTS)
        places.setdefault(kind, []).append(place)
    return places.values()


def _evaluated(
    model: LoadedModel, requests: Sequence[Request[Prediction]], limits: Limits
) -> list[Prediction | NonFinitePredictionError]:
    outputs = requests[0].outputs.union(*(request.outputs for request in requests[1:]))
    systems = [request.system for request in requests]
    predictions = _by_table(model, systems, outputs)
    if predictions is None:
        batch = _batch(model, systems, [request.walker for request in requests])
        _check_room(batch, limits)
        predictions = _predict(model, batch, outputs)
    return [
        _checked(request, prediction)
        for request, prediction in zip(requests, predictions, strict=True)
    ]


def _batch(
    model: LoadedModel, systems: Sequence[System], walkers: Sequence[Hashable] = ()
) -> Batch:
    p = model.potential
    return Batch.from_systems(
        systems, p.cutoff, p.dtype, p.device, lists=model.lists, walkers=walkers
    )


def _check_room(batch: Batch, limits: Limits) -> None:
    """Refuse a batch that is larger than was estimated; the culprit of several is found alone.

    A potential may give each atom as much room as the one with most neighbors needs.
    """
    most = max(batch.n_pairs_per_system)
    if most > limits.max_pairs_per_system:
        raise _too_crowded(f"{limits.max_pairs_per_system} neighbor pairs", most)
    max_pairs = max(limits.max_batch_pairs, limits.max_pairs_per_system)
    if batch.n_pairs > max_pairs:
        raise _too_crowded(f"{max_pairs} neighbor pairs", batch.n_pairs)
    max_neighbors = MAX_PADDING * max_pairs // batch.n_atoms
    if batch.n_pairs > max_neighbors:  # or no atom can have as many
        n_neighbors = int(torch.bincount(batch.pairs[0]).max())
        if n_neighbors > max_neighbors:
            raise _too_crowded(f"{max_neighbors} neighbors of an atom", n_neighbors)


def _too_crowded(expected: str, got: int) -> SystemTooLargeError:
    return SystemTooLargeError(
        f"positions: expected at most {expected}, got {got}; are coordinates and cell in Å?",
        field="positions",
    )


def _predicted(
    model: LoadedModel, systems: Sequence[System], outputs: frozenset[str]
) -> list[Prediction]:
    """Evaluate systems in whatever way requests are."""
    predictions = _by_table(model, systems, outputs)
    return _predict(model, _batch(model, systems), outputs) if predictions is None else predictions


def _by_table(
    model: LoadedModel, systems: Sequence[System], outputs: frozenset[str]
) -> list[Prediction] | None:
    return None if model.tables is None else model.tables.predict(systems, outputs)


def _predict(model: LoadedModel, batch: Batch, outputs: frozenset[str]) -> list[Prediction]:
    predictions = split(predict_batch(model.potential, batch, outputs), batch)
    if len(predictions) != batch.n_systems:
        raise PredictionError(
            f"the model gave {len(predictions)} predictions for {batch.n_systems} systems"
        )
    return predictions


def _checked(
    request: Request[Prediction], prediction: Prediction
) -> Prediction | NonFinitePredictionError:
    """Return the prediction, if all that was asked for is there, in shape and finite."""
    for name in OUTPUTS:
        if name not in request.outputs:
            continue
        value = getattr(prediction, name)
        if name == "energy":
            has_shape, is_finite = isinstance(value, float), value is None or isfinite(value)
        else:
            has_shape = value is not None and value.shape == _shape(name, request.n_atoms)
            is_finite = not has_shape or np.logical_and.reduce(np.isfinite(value), axis=None)
        if not has_shape:
            raise PredictionError(f"the model gave {name} of shape {np.shape(value)}")
        if not is_finite:
            return NonFinitePredictionError(
                f"{name}: the model gave NaN or infinity for this system", field=name
            )
    return prediction


def _shape(name: str, n_atoms: int) -> tuple[int, ...]:
    return (n_atoms, *_SHAPES[name]) if name in _SHAPES else (3, 3)


def _small_system(element: int) -> System:
    positions = [[0.0, 0.0, 0.0], [_WARM_UP_DISTANCE, 0.0, 0.0]]
    return System([element, element], positions, np.eye(3) * _WARM_UP_CELL, pbc=True)


def _lattice(element: int, side: int, distance: float) -> System:
    """Return a periodic cube of atoms."""
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1)
    positions = distance * grid.reshape(-1, 3)
    cell = np.eye(3) * distance * side
    return System([element] * len(positions), positions, cell, pbc=True)
