"""What one training step evaluates: both forces of one system, compiled if wanted.

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

from twinforce_models.potentials.hybrid_core import HybridCore, NeighborTable
from twinforce_models.training.dataset import Sample


class Evaluation(NamedTuple):
    """What the network says of one sample; conservative parts are zero in direct steps.

    Attributes:
        energy: Without reference energies, in eV.
        conservative_forces: Shape [n_atoms, 3], in eV/Å.
        strain_gradient: Volume times conservative stress, shape [3, 3], in eV.
        direct_forces: Without net force, shape [n_atoms, 3], in eV/Å.
        direct_strain_gradient: Volume times direct stress, shape [3, 3], in eV.
    """

    energy: Tensor
    conservative_forces: Tensor
    strain_gradient: Tensor
    direct_forces: Tensor
    direct_strain_gradient: Tensor


Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
Evaluate = Callable[[Sequence[Tensor], Tensor, Tensor, Tensor, Tensor], Sequence[Tensor]]


def inputs(sample: Sample) -> Inputs:
    """Return what the evaluations take: kinds, vectors, neighbor index and reverse pairs."""
    return sample.kinds, sample.vectors(), sample.index, sample.reverse


def make_evaluate(core: HybridCore, *, conservative: bool) -> Evaluate:
    """Return a function of the core's parameters and `inputs` that gives an `Evaluation`."""
    names = [name for name, _ in core.named_parameters()]

    def evaluate(
        parameters: Sequence[Tensor], kinds: Tensor, vectors: Tensor, index: Tensor, reverse: Tensor
    ) -> Evaluation:
        state = dict(zip(names, parameters, strict=True))
        if conservative:
            vectors = vectors.detach().requires_grad_()
        heads = functional_call(core, state, (kinds, NeighborTable(index, vectors)))
        energy = heads.local_energies.sum()
        net = heads.direct_forces.mean(0)
        forces, strain_gradient = torch.zeros_like(net), vectors.new_zeros(3, 3)
        if conservative:
            (pull,) = torch.autograd.grad(energy, vectors, create_graph=True)
            seen_from_other = pull.reshape(-1, 3).index_select(0, reverse).view_as(pull)
            forces = (pull - seen_from_other).sum(1)
            strain_gradient = torch.einsum("nka,nkb->ab", vectors, pull)
        return Evaluation(
            energy,
            forces,
            strain_gradient,
            heads.direct_forces - net,
            heads.direct_strain_gradients.sum(0),
        )

    return evaluate


def compiled(evaluate: Evaluate, parameters: Sequence[Tensor], example: Inputs) -> Evaluate:
    """Return `evaluate` compiled for inputs of the example's shapes."""
    graph = make_fx(evaluate)(parameters, *example)
    fast: Evaluate = torch.compile(graph)
    return fast
