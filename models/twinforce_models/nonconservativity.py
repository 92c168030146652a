"""The distance of direct forces from a gradient.

    λ = ‖(J - Jᵀ)/2‖ / ‖J‖        J = ∂f/∂r, Frobenius norms

λ is 0 for a gradient and 1 for a field without any conservative part (Bigi, Langer, Ceriotti,
arXiv 2412.11569, eq. 5).
"""

import torch
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.potential import Potential
from twinforce_models.prediction import predict_batch
from twinforce_proto import System
from twinforce_proto.jacobian import measure
from twinforce_proto.model_info import check_supported


def direct_jacobian(potential: Potential, system: System) -> Tensor:
    """Return ∂f/∂r of the direct forces, net force removed, by autograd.

    Returns:
        Shape [3 n_atoms, 3 n_atoms], rows f and columns r, in eV/Å², on the host.

    Raises:
        UnsupportedOutputError: If the potential has no direct forces.
        UnsupportedElementError: If the potential does not support an element.
    """
    check_supported(potential, [system], frozenset({"direct_forces"}))
    batch = Batch.from_systems([system], potential.cutoff, potential.dtype, potential.device)
    return jacobian_rows(potential, batch, range(3 * len(system)))


def jacobian_rows(
    potential: Potential, batch: Batch, rows: range, output: str = "direct_forces"
) -> Tensor:
    """Return rows of the Jacobian of forces, one backward pass per row after a single forward pass.

    Sequential backward passes need the memory of one. Batched ones (vmap) need the memory of all
    of them, are at best a fifth faster on a CPU, and not every operation of every model supports
    them.

    Args:
        potential: The potential to evaluate.
        batch: One system, on the potential's device, with its cutoff.
        rows: Indices into the flattened forces of all atoms.
        output: "direct_forces" or "conservative_forces".

    Returns:
        Shape [len(rows), 3 n_atoms], in eV/Å², on the host.
    """
    positions = batch.positions.detach().requires_grad_()
    with torch.enable_grad():
        components = _differentiable(potential, batch.at(positions), output).reshape(-1)
        if not components.requires_grad:  # a lone atom
            return positions.new_zeros(len(rows), positions.numel()).cpu()
        found = [_gradient(components[row], positions) for row in rows]
    return torch.stack(found).reshape(len(rows), -1).cpu()


def nonconservativity(jacobian: Tensor) -> float:
    """Return λ of a Jacobian, shape [m, m]."""
    return measure(jacobian.double().numpy()).value


def _differentiable(potential: Potential, batch: Batch, output: str) -> Tensor:
    """Return forces that depend differentiably on the positions, shape [n_atoms, 3]."""
    name = "direct_forces" if output == "direct_forces" else "energy"
    prediction = predict_batch(potential, batch, {name}, differentiable=True)
    if name == "direct_forces":
        assert prediction.direct_forces is not None
        return prediction.direct_forces
    assert prediction.energy is not None
    energy = prediction.energy.sum()
    return -_gradient(energy, batch.positions, create_graph=True)


def _gradient(value: Tensor, positions: Tensor, *, create_graph: bool = False) -> Tensor:
    """Return the gradient of a scalar with respect to the positions, keeping its graph."""
    if not value.requires_grad:
        return torch.zeros_like(positions)
    (gradient,) = torch.autograd.grad(
        value,
        positions,
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return gradient
