"""Evaluate requests on a device; this module knows no queue and no futures."""

import traceback
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from twinforce_models.batch import Batch
from twinforce_models.nonconservativity import jacobian_rows
from twinforce_models.potential import is_separable, outputs_if_periodic
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
from twinforce_proto.model_info import reason_if_open
from twinforce_proto.outputs import DIRECT_OUTPUTS
from twinforce_service.engine.report import DeviceMemory
from twinforce_service.scheduling.request import JacobianRequest, JacobianRows, Limits, Request

_SHAPES: dict[str, tuple[int, ...]] = {
    "atom_energies": (),
    "conservative_forces": (3,),
    "direct_forces": (3,),
}
_MAX_SUMMARY = 500
# Part of the message of torch if the host has no memory for a tensor; it has no class of its own.
_HOST_MEMORY = "DefaultCPUAllocator: can't allocate memory"
# Room that a batch may take, as a multiple of the room that its pairs need.
MAX_PADDING = 2


class DeviceLostError(Exception):
    """The device does not respond; only a new process can use it again."""


def evaluate(
    model: LoadedModel, requests: Sequence[Request[Prediction]], limits: Limits
) -> list[Prediction | ServiceError]:
    """Evaluate requests together; predictions may hold more outputs than were requested.

    In the place of a prediction is an error if the model has none for that system.

    Args:
        model: The model of all requests.
        requests: At least one.
        limits: Limits of the neighbor pairs of a system and of a batch.

    Raises:
        SystemTooLargeError: One system, or all together, have more pairs than the limits allow.
        PredictionError: The potential returned too few predictions, or wrong shapes.
        Exception: Any exception of the potential.
    """
    if not is_separable(model.potential):
        return _evaluate_together(model, requests, limits)
    answers: dict[int, Prediction | ServiceError] = {}
    for indices in _indices_by_heads(requests):
        chosen = [requests[index] for index in indices]
        answers |= zip(indices, _evaluate_together(model, chosen, limits), strict=True)
    return [answers[index] for index in range(len(requests))]


def evaluate_rows(
    model: LoadedModel, request: JacobianRequest, limits: Limits
) -> JacobianRows | NonFinitePredictionError:
    """Evaluate some rows of the Jacobian of the forces of a system.

    Raises:
        SystemTooLargeError: The system has more neighbor pairs than the limits allow.
        Exception: Any exception of the potential.
    """
    batch = make_batch(model, [request.system])
    _check_room(batch, limits)
    (output,) = request.outputs
    values = jacobian_rows(model.potential, batch, request.rows, output).double().numpy()
    if not np.isfinite(values).all():
        return NonFinitePredictionError(
            f"{output}: the model gave NaN or infinity as a derivative for this system",
            field=output,
        )
    return JacobianRows(values)


def make_batch(
    model: LoadedModel, systems: Sequence[System], walkers: Sequence[str | None] = ()
) -> Batch:
    """Return a batch on the device of a model.

    Args:
        model: The model that is to evaluate the batch.
        systems: At least one.
        walkers: Id of the walker of each system, whose neighbor list is reused, or None.
    """
    p = model.potential
    return Batch.from_systems(
        systems, p.cutoff, p.dtype, p.device, lists=model.lists, walkers=walkers
    )


def predict(
    model: LoadedModel, systems: Sequence[System], outputs: frozenset[str]
) -> list[Prediction]:
    """Evaluate systems on the same path as requests, without limits and without checks."""
    predictions = _predict_by_table(model, systems, outputs)
    if predictions is None:
        return _predict_batch(model, make_batch(model, systems), outputs)
    return predictions


def is_out_of_memory(error: Exception) -> bool:
    """Return True if a batch did not fit into the memory of its device or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _HOST_MEMORY in str(error)


def recover(model: LoadedModel, error: Exception) -> None:
    """Make the device usable again after a batch has failed.

    Raises:
        DeviceLostError: The device does not respond.
    """
    device = model.potential.device
    # The frames of the traceback still hold the tensors that did not fit.
    traceback.clear_frames(error.__traceback__)
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
        if model.tables is not None:
            model.tables.forget()
        torch.cuda.empty_cache()
    except RuntimeError as lost:
        raise DeviceLostError(f"{device}: {lost}") from error


def memory_of(model: LoadedModel) -> DeviceMemory | None:
    """Return the memory of the device of a model; None unless it is a GPU."""
    device = model.potential.device
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    used, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    return DeviceMemory(model.info.device, used, reserved, free)


def failure_of(error: Exception, n_atoms: int, device: str) -> ServiceError:
    """Return the error for the client whose system made the model raise this exception."""
    if isinstance(error, ServiceError):
        return error
    if is_out_of_memory(error):
        return SystemTooLargeError(f"{n_atoms} atoms do not fit into the memory of {device}")
    return PredictionError(f"the model failed on this system: {summary(error)}")


def summary(error: BaseException) -> str:
    """Return the class and the message of an exception, truncated."""
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= _MAX_SUMMARY else text[:_MAX_SUMMARY] + "…"


def _indices_by_heads(requests: Sequence[Request[Prediction]]) -> Iterable[Sequence[int]]:
    """Return the indices of requests that share a pass of a model whose heads share nothing.

    Requests for the energy, for direct outputs and for both are kept apart, so that none of them
    pays for the heads of another.
    """
    indices: dict[tuple[bool, bool], list[int]] = {}
    for index, request in enumerate(requests):
        kind = request.outputs <= DIRECT_OUTPUTS, request.outputs.isdisjoint(DIRECT_OUTPUTS)
        indices.setdefault(kind, []).append(index)
    return indices.values()


def _evaluate_together(
    model: LoadedModel, requests: Sequence[Request[Prediction]], limits: Limits
) -> list[Prediction | ServiceError]:
    outputs = requests[0].outputs.union(*(request.outputs for request in requests[1:]))
    systems = [request.system for request in requests]
    predictions = _predict_by_table(model, systems, outputs)
    if predictions is None:
        walkers = [None if (w := request.walker) is None else w.id for request in requests]
        batch = make_batch(model, systems, walkers)
        _check_room(batch, limits)
        predictions = _predict_batch(model, batch, outputs)
    if_periodic = outputs_if_periodic(model.potential)
    return [
        reason_if_open(request.system, request.outputs & if_periodic)
        or _checked(request, prediction)
        for request, prediction in zip(requests, predictions, strict=True)
    ]


def _check_room(batch: Batch, limits: Limits) -> None:
    """Refuse a batch with more pairs than admission estimated.

    A potential may give each atom as much room as the atom with most neighbors needs. The system
    that is to blame for a large batch is found when the batch is halved.
    """
    most = max(batch.n_pairs_per_system)
    if most > limits.max_pairs_per_system:
        raise _too_many(f"{limits.max_pairs_per_system} neighbor pairs", most)
    max_pairs = max(limits.max_batch_pairs, limits.max_pairs_per_system)
    if batch.n_pairs > max_pairs:
        raise _too_many(f"{max_pairs} neighbor pairs", batch.n_pairs)
    max_neighbors = MAX_PADDING * max_pairs // batch.n_atoms
    if batch.n_pairs > max_neighbors:  # otherwise no atom can have more neighbors than that
        n_neighbors = int(torch.bincount(batch.pairs[0]).max())
        if n_neighbors > max_neighbors:
            raise _too_many(f"{max_neighbors} neighbors of an atom", n_neighbors)


def _too_many(most: str, got: int) -> SystemTooLargeError:
    return SystemTooLargeError.expected(
        "positions", f"at most {most}", f"{got}; are coordinates and cell in Å?"
    )


def _predict_by_table(
    model: LoadedModel, systems: Sequence[System], outputs: frozenset[str]
) -> list[Prediction] | None:
    return None if model.tables is None else model.tables.predict(systems, outputs)


def _predict_batch(model: LoadedModel, batch: Batch, outputs: frozenset[str]) -> list[Prediction]:
    predictions = split(predict_batch(model.potential, batch, outputs), batch)
    if len(predictions) != batch.n_systems:
        raise PredictionError(
            f"the model gave {len(predictions)} predictions for {batch.n_systems} systems"
        )
    return predictions


def _checked(
    request: Request[Prediction], prediction: Prediction
) -> Prediction | NonFinitePredictionError:
    """Return the prediction if all requested outputs are there, in shape and finite."""
    for name in OUTPUTS:
        if name not in request.outputs:
            continue
        value = getattr(prediction, name)
        if name == "energy":
            has_shape, is_finite = isinstance(value, float), value is None or isfinite(value)
        else:
            has_shape = value is not None and value.shape == _shape(name, request.n_atoms)
            is_finite = not has_shape or _is_finite(value)
        if not has_shape:
            raise PredictionError(f"the model gave {name} of shape {np.shape(value)}")
        if not is_finite:
            return NonFinitePredictionError(
                f"{name}: the model gave NaN or infinity for this system", field=name
            )
    return prediction


def _is_finite(values: NDArray[Any]) -> bool:
    """Return True if all values are finite, which a finite sum of squares tells at once."""
    return isfinite(np.vdot(values, values)) or bool(np.isfinite(values).all())


def _shape(name: str, n_atoms: int) -> tuple[int, ...]:
    return (n_atoms, *_SHAPES[name]) if name in _SHAPES else (3, 3)
