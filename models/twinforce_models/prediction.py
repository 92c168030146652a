"""Evaluation of potentials: one forward pass, and autograd where the outputs need it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.conventions import split_by_system, symmetric_stress, without_net_force
from twinforce_models.potential import (
    DirectHeads,
    FusedHeads,
    Heads,
    Potential,
    as_direct_alone,
    as_fused,
    is_separable,
)
from twinforce_proto import OUTPUTS, Prediction, PredictionError, System, needs_autograd
from twinforce_proto.model_info import check_supported
from twinforce_proto.outputs import DIRECT_OUTPUTS


@dataclass(frozen=True, slots=True, eq=False)
class BatchPrediction:
    """The predictions for a batch; only the requested outputs are set.

    Attributes:
        energy: Shape [n_systems], in eV, float64.
        atom_energies: Shape [n_atoms], in eV.
        conservative_forces: Shape [n_atoms, 3], in eV/Å.
        direct_forces: Shape [n_atoms, 3], in eV/Å, without net force in any system.
        conservative_stress: Shape [n_systems, 3, 3], in eV/Å³.
        direct_stress: Shape [n_systems, 3, 3], in eV/Å³.
    """

    energy: Tensor | None = None
    atom_energies: Tensor | None = None
    conservative_forces: Tensor | None = None
    direct_forces: Tensor | None = None
    conservative_stress: Tensor | None = None
    direct_stress: Tensor | None = None


def predict(
    potential: Potential, systems: Sequence[System], outputs: Iterable[str]
) -> list[Prediction]:
    """Evaluate systems together, in one forward pass and one copy from the device.

    Args:
        potential: The potential; its own device and dtype are used.
        systems: The systems; may be empty.
        outputs: Names of `OUTPUTS`.

    Raises:
        UnsupportedOutputError: If the potential does not have an output, or a stress is requested
            for a system without a volume.
        UnsupportedElementError: If the potential does not support an element.
    """
    names = frozenset(outputs)
    check_supported(potential, systems, names)
    if not systems:
        return []
    batch = Batch.from_systems(systems, potential.cutoff, potential.dtype, potential.device)
    return split(predict_batch(potential, batch, names), batch)


def predict_batch(
    potential: Potential, batch: Batch, outputs: Iterable[str], *, differentiable: bool = False
) -> BatchPrediction:
    """Evaluate a batch in one forward pass, and in at most one backward pass.

    This function does not check that the potential supports the systems; `predict` and the
    service's admission do that once, with `check_supported`.

    Args:
        potential: The potential to evaluate.
        batch: On the potential's device, with its cutoff.
        outputs: Names of `OUTPUTS`. No graph is built unless one of them is conservative.
        differentiable: True to keep the graph, so that a loss of the results can reach the
            parameters.

    Raises:
        PredictionError: If the potential returned no value for one of the outputs.
    """
    names = frozenset(outputs)
    results = None if differentiable else _evaluate_fused(potential, batch, names)
    if results is None:
        with torch.set_grad_enabled(differentiable or needs_autograd(names)):
            results = _evaluate(potential, batch, names, differentiable)
    if not differentiable:
        results = {name: value.detach() for name, value in results.items()}
    return BatchPrediction(**results)


def split(prediction: BatchPrediction, batch: Batch) -> list[Prediction]:
    """Return each system's part, on the host, after a single copy from the device."""
    values = ((name, getattr(prediction, name)) for name in OUTPUTS)
    on_host = _to_host({name: tensor for name, tensor in values if tensor is not None})
    return split_by_system(on_host, batch.n_atoms_per_system)


def _to_host(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return float64 arrays that share no memory with the tensors."""
    if all(tensor.device.type == "cpu" for tensor in tensors.values()):
        return {
            name: np.array(tensor.detach().numpy(), np.float64) for name, tensor in tensors.items()
        }
    is_double = any(tensor.dtype == torch.float64 for tensor in tensors.values())
    dtype = torch.float64 if is_double else torch.float32
    flat = torch.cat([tensor.detach().reshape(-1).to(dtype) for tensor in tensors.values()])
    values = flat.cpu().numpy().astype(np.float64, copy=False)
    bounds = np.cumsum([tensor.numel() for tensor in tensors.values()])[:-1]
    return {
        name: part.reshape(tuple(tensor.shape))
        for (name, tensor), part in zip(tensors.items(), np.split(values, bounds), strict=True)
    }


def _evaluate(
    potential: Potential, batch: Batch, outputs: frozenset[str], differentiable: bool
) -> dict[str, Tensor]:
    leaves: dict[str, Tensor] = {}
    if "conservative_forces" in outputs:
        leaves["conservative_forces"] = batch.positions.detach().requires_grad_()
        batch = batch.at(leaves["conservative_forces"])
    if "conservative_stress" in outputs:
        leaves["conservative_stress"] = torch.zeros_like(batch.cells, requires_grad=True)
        batch = batch.strained(leaves["conservative_stress"])
    results = _forward(potential, batch, outputs, differentiable)
    if leaves:
        gradients = _gradients(results["energy"].sum(), list(leaves.values()), differentiable)
        results |= _derivatives(dict(zip(leaves, gradients, strict=True)), batch)
    return _select(outputs, results)


def _evaluate_fused(
    potential: Potential, batch: Batch, outputs: frozenset[str]
) -> dict[str, Tensor] | None:
    """Return the results of a potential that takes its own derivatives; None for any other."""
    if (fused := as_fused(potential)) is None:
        return None
    with torch.no_grad():
        if (heads := fused.forward_fused(batch, outputs)) is None:
            return None
        results = _energies(heads, batch) | _direct(heads, batch)
        return _select(outputs, results | _derivatives(heads.gradients, batch))


def _select(outputs: frozenset[str], results: dict[str, Tensor]) -> dict[str, Tensor]:
    if missing := outputs - results.keys():
        raise PredictionError(f"the potential returned no {', '.join(sorted(missing))}")
    return {name: results[name] for name in outputs}


def _forward(
    potential: Potential, batch: Batch, outputs: frozenset[str], differentiable: bool
) -> dict[str, Tensor]:
    """Return the results of the forward pass, evaluating only the heads that are needed."""
    needs_direct, needs_energy = bool(outputs & DIRECT_OUTPUTS), not outputs <= DIRECT_OUTPUTS
    is_together = needs_energy and not is_separable(potential)
    alone = as_direct_alone(potential)
    if not needs_direct or is_together or alone is None:
        heads = potential.forward_heads(batch, direct=needs_direct)
        return _energies(heads, batch) | _direct(heads, batch)
    results: dict[str, Tensor] = {}
    if needs_energy:
        results |= _energies(potential.forward_heads(batch, direct=False), batch)
    with torch.set_grad_enabled(differentiable):
        return results | _direct(alone.forward_direct(batch), batch)


def _energies(heads: Heads | FusedHeads, batch: Batch) -> dict[str, Tensor]:
    if isinstance(heads, Heads) and heads.energy is not None:
        return {"energy": heads.energy.to(torch.float64)}
    if heads.atom_energies is None:
        raise PredictionError("the potential returned neither energies of atoms nor of systems")
    energy = batch.sum_over_atoms(heads.atom_energies.to(torch.float64))
    return {"atom_energies": heads.atom_energies, "energy": energy}


def _direct(heads: Heads | DirectHeads | FusedHeads, batch: Batch) -> dict[str, Tensor]:
    results = {}
    if heads.direct_forces is not None:
        results["direct_forces"] = without_net_force(heads.direct_forces, batch)
    if heads.direct_stress is not None:
        results["direct_stress"] = heads.direct_stress
    return results


def _derivatives(gradients: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """Return conservative forces and stress, each if its gradient is given.

    With r' = r (1 + ε) and h' = h (1 + ε), rows as vectors:

        F = -dE/dr        V σ = dE/dε        ε -> strain,  σ -> stress,  V -> volume
    """
    results = {}
    if (gradient := gradients.get("conservative_forces")) is not None:
        results["conservative_forces"] = -gradient
    if (gradient := gradients.get("conservative_stress")) is not None:
        results["conservative_stress"] = symmetric_stress(gradient, batch.volumes.detach())
    return results


def _gradients(
    energy: Tensor, leaves: Sequence[Tensor], differentiable: bool
) -> tuple[Tensor, ...]:
    """Return dE/dleaf; zeros where the energy does not depend on the leaf, as for a lone atom."""
    if not energy.requires_grad:
        return tuple(torch.zeros_like(leaf) for leaf in leaves)
    return torch.autograd.grad(
        energy, leaves, create_graph=differentiable, allow_unused=True, materialize_grads=True
    )
