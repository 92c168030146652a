"""What happens to a batch on the device; knows no queue and no futures."""

import traceback
from collections.abc import Hashable, Iterable, Sequence
from math import isfinite

import numpy as np
import torch

from twinforce_models.batch import Batch
from twinforce_models.nonconservativity import jacobian_rows
from twinforce_models.potential import DIRECT_OUTPUTS, is_separable
from twinforce_models.prediction import predict_batch, split
from twinforce_models.registry import LoadedModel
from twinforce_proto import (
    OUTPUTS,
    NonFinitePredictionError,
    Prediction,
    PredictionError,
    ServiceError,
    System,
    SystemTooLargeError,
)
from twinforce_service.scheduling.request import JacobianRequest, JacobianRows, Limits, Request

_SHAPES: dict[str, tuple[int, ...]] = {
    "atom_energies": (),
    "conservative_forces": (3,),
    "direct_forces": (3,),
}
_MAX_SUMMARY = 500
# How many times as much room as its pairs need a batch may take.
MAX_PADDING = 2


class DeviceLostError(Exception):
    """The device no longer answers; only a new process can use it again."""


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
