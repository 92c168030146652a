"""What one training step evaluates: both forces of a sample, compiled if wanted.

Conservative training differentiates a derivative. Compilers do not follow that by themselves, so
the forces are first traced into a plain graph that already holds the first derivative; the compiler
then sees an ordinary function (as NequIP does: Tan et al., arXiv 2504.16068).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from twinforce_models.potentials.hybrid_net.core import HybridCore, NeighborTable
from twinforce_models.training.dataset import Sample


class Evaluation(NamedTuple):
    """What the network says of one sample; conservative parts are zero in direct steps.

    Attributes:
        energy: Without reference energies, shape [n_systems], in eV.
        conservative_forces: Shape [n_atoms, 3], in eV/Å.
        strain_gradient: Volume times conservative stress, shape [n_systems, 3, 3], in eV.
        direct_forces: Without the net force of each system, shape [n_atoms, 3], in eV/Å.
        direct_strain_gradient: Volume times direct stress, shape [n_systems, 3, 3], in eV.
    """

    energy: Tensor
    conservative_forces: Tensor
    strain_gradient: Tensor
    direct_forces: Tensor
    direct_strain_gradient: Tensor


Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Evaluate = Callable[[Sequence[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor], Sequence[Tensor]]


def inputs(sample: Sample) -> Inputs:
    """Return what evaluations take: kinds, vectors, neighbor index, reverse pairs, membership."""
    return sample.kinds, sample.vectors(), sample.index, sample.reverse, sample.membership


def make_evaluate(core: HybridCore, *, conservative: bool) -> Evaluate:
    """Return a function of the core's parameters and `inputs` that gives an `Evaluation`."""
    names = [name for name, _ in core.named_parameters()]

    def evaluate(
        parameters: Sequence[Tensor],
        kinds: Tensor,
        vectors: Tensor,
        index: Tensor,
        reverse: Tensor,
        membership: Tensor,
    ) -> Evaluation:
        state = dict(zip(names, parameters, strict=True))
        if conservative:
            vectors = vectors.detach().requires_grad_()
        heads = functional_call(core, state, (kinds, NeighborTable(index, vectors)))
        sizes = membership.sum(1, keepdim=True).clamp(min=1.0)
        net = membership.T @ ((membership @ heads.direct_forces) / sizes)
        forces = torch.zeros_like(net)
        strain_gradients = torch.zeros_like(heads.direct_strain_gradients)
        if conservative:
            energy = heads.local_energies.sum()
            (pull,) = torch.autograd.grad(energy, vectors, create_graph=True)
            seen_from_other = pull.reshape(-1, 3).index_select(0, reverse).view_as(pull)
            forces = (pull - seen_from_other).sum(1)
            strain_gradients = torch.einsum("nka,nkb->nab", vectors, pull)
        return Evaluation(
            membership @ heads.local_energies,
            forces,
            torch.einsum("sn,nab->sab", membership, strain_gradients),
            heads.direct_forces - net,
            torch.einsum("sn,nab->sab", membership, heads.direct_strain_gradients),
        )

    return evaluate


def compiled(
    evaluate: Evaluate, parameters: Sequence[Tensor], examples: Sequence[Inputs]
) -> Evaluate:
    """Return `evaluate` compiled for inputs of the shapes of the examples, and for no others."""
    of_shape = {}
    for example in examples:
        graph = make_fx(evaluate)(parameters, *example)
        of_shape[_shape(example)] = torch.compile(graph)

    def evaluate_fast(
        parameters: Sequence[Tensor],
        kinds: Tensor,
        vectors: Tensor,
        index: Tensor,
        reverse: Tensor,
        membership: Tensor,
    ) -> Sequence[Tensor]:
        given = (kinds, vectors, index, reverse, membership)
        fast: Sequence[Tensor] = of_shape[_shape(given)](parameters, *given)
        return fast

    return evaluate_fast


def _shape(given: Inputs) -> tuple[int, ...]:
    """Return atoms, width of the table and systems: what inputs of different shape differ in."""
    _, _, index, _, membership = given
    return (*index.shape, len(membership))
