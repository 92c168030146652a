"""Energies of networks that take their derivatives by themselves, as functions for autograd."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_proto import UnsupportedOutputError


def with_known_gradients(
    batch: Batch, atom_energies: Tensor, conservative_forces: Tensor, strain_gradient: Tensor
) -> Tensor:
    """Return energies of atoms that autograd can differentiate once, summed over each system.

        dE/dε = rᵀ dE/dr + hᵀ dE/dh        with r' = r (1 + ε), h' = h (1 + ε)

    r -> positions, h -> cells, ε -> strain

    Args:
        batch: The batch; the energies become functions of its positions and cells.
        atom_energies: Shape [n_atoms], in eV.
        conservative_forces: -dE/dr, shape [n_atoms, 3], in eV/Å.
        strain_gradient: dE/dε of each system, shape [n_systems, 3, 3], in eV.
    """
    with torch.no_grad():
        slopes = -conservative_forces.to(torch.float64)
        products = batch.positions.unsqueeze(2) * slopes.unsqueeze(1)
        rest = strain_gradient.to(torch.float64) - batch.sum_over_atoms(products)
        cells = torch.linalg.pinv(batch.cells.transpose(1, 2)) @ rest
    function: Callable[..., Tensor] = _KnownGradients.apply
    return function(
        batch.positions, batch.cells, atom_energies.to(torch.float64), slopes, cells, batch
    )


class _KnownGradients(torch.autograd.Function):
    """The energies of atoms as a function of positions and cells, with given gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        positions: Tensor,
        cells: Tensor,
        energies: Tensor,
        position_slopes: Tensor,
        cell_slopes: Tensor,
        batch: Batch,
    ) -> Tensor:
        del positions, cells  # autograd needs them as arguments
        ctx.batch = batch
        ctx.save_for_backward(position_slopes, cell_slopes)
        return energies.clone()

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # somebody wants to differentiate the result again
            raise UnsupportedOutputError("this model has no second derivatives")
        per_system = ctx.batch.mean_over_atoms(weights.unsqueeze(1))
        if not torch.equal(ctx.batch.to_atoms(per_system)[:, 0], weights):
            raise UnsupportedOutputError("this model has no gradients of energies of single atoms")
        positions, cells = ctx.saved_tensors
        return weights.unsqueeze(1) * positions, per_system.unsqueeze(2) * cells, *[None] * 4
