"""How far direct forces are from being a gradient.

    λ = ‖(J - Jᵀ)/2‖ / ‖J‖        J = ∂f/∂r, Frobenius norms

0 for a gradient, 1 for a field without any conservative part (Bigi, Langer, Ceriotti,
arXiv 2412.11569, eq. 5).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.potential import Potential, predict_batch
from twinforce_proto import System


def direct_jacobian(potential: Potential, system: System) -> Tensor:
    """Return ∂f/∂r of the direct forces, without net force, by autograd.

    Returns:
        Shape [3 n_atoms, 3 n_atoms], rows f and columns r, in eV/Å², on the host.
    """
    return torch.stack(list(jacobian_rows(potential, system)))


def jacobian_rows(potential: Potential, system: System) -> Iterator[Tensor]:
    """Yield the rows of `direct_jacobian` one by one, each from one backward pass."""
    batch = Batch.from_systems([system], potential.cutoff, potential.dtype, potential.device)
    positions = batch.positions.detach().requires_grad_()
    outputs = {"direct_forces"}
    with torch.enable_grad():
        prediction = predict_batch(potential, batch.at(positions), outputs, differentiable=True)
        assert prediction.direct_forces is not None
        components = prediction.direct_forces.reshape(-1)
        for component in components:
            (row,) = torch.autograd.grad(component, positions, retain_graph=True)
            yield row.reshape(-1).cpu()


def nonconservativity(jacobian: Tensor) -> float:
    """Return λ of a Jacobian, shape [m, m]."""
    antisymmetric = (jacobian - jacobian.T) / 2
    return float(torch.linalg.norm(antisymmetric) / torch.linalg.norm(jacobian))
