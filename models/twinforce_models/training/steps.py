"""The evaluation of a sample in a training step: energy and both forces, optionally compiled.

Training on conservative forces needs a second derivative, which compilers do not support directly.
The forces are therefore traced into a graph that contains the first derivative, so that the
compiler sees an ordinary function (as in NequIP: Tan et al., arXiv 2504.16068).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from twinforce_models.potentials.hybrid_net.core import CoreHeads, HybridCore, NeighborTable
from twinforce_models.potentials.hybrid_net.fused import heads_of
from twinforce_models.training.compiled_sums import CompiledSums
from twinforce_models.training.dataset import Sample


class Evaluation(NamedTuple):
    """The outputs of the network for a sample; conservative ones are zero in direct steps.

    Attributes:
        energy: Energy without reference energies, shape [n_systems], in eV.
        conservative_forces: Shape [n_atoms, 3], in eV/Å.
        strain_gradient: Volume times conservative stress, shape [n_systems, 3, 3], in eV.
        direct_forces: Direct forces without the net force of each system, shape [n_atoms, 3], in
            eV/Å.
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
    """Return the arguments of an evaluation: kinds, vectors, index, reverse and membership."""
    return sample.kinds, sample.vectors, sample.index, sample.reverse, sample.membership


def make_evaluate(core: HybridCore, *, conservative: bool) -> Evaluate:
    """Return a function of the core's parameters and `inputs` that returns an `Evaluation`."""
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
        direct = _direct_evaluation(heads, membership)
        if not conservative:
            return direct
        energy = heads.local_energies.sum()
        (gradient,) = torch.autograd.grad(energy, vectors, create_graph=True)
        of_reverse = gradient.reshape(-1, 3).index_select(0, reverse).view_as(gradient)
        strain_gradients = torch.einsum("nka,nkb->nab", vectors, gradient)
        return direct._replace(
            conservative_forces=(gradient - of_reverse).sum(1),
            strain_gradient=torch.einsum("sn,nab->sab", membership, strain_gradients),
        )

    return evaluate


def _direct_evaluation(heads: CoreHeads, membership: Tensor) -> Evaluation:
    """Return the evaluation of a direct step."""
    sizes = membership.sum(1, keepdim=True).clamp(min=1.0)
    net = membership.T @ ((membership @ heads.direct_forces) / sizes)
    gradients = torch.einsum("sn,nab->sab", membership, heads.direct_strain_gradients)
    return Evaluation(
        membership @ heads.local_energies,
        torch.zeros_like(net),
        torch.zeros_like(gradients),
        heads.direct_forces - net,
        gradients,
    )


def make_direct_evaluate(core: HybridCore) -> Evaluate:
    """Return the function of `make_evaluate` for direct steps, with compiled sums of messages.

    Most of the time of a direct step goes into these sums. Compiling them takes seconds; compiling
    a whole step can take minutes.
    """
    fused = FusedCore(core)
    names = [name for name, _ in fused.named_parameters()]

    def evaluate(
        parameters: Sequence[Tensor],
        kinds: Tensor,
        vectors: Tensor,
        index: Tensor,
        reverse: Tensor,
        membership: Tensor,
    ) -> Evaluation:
        del reverse
        state = dict(zip(names, parameters, strict=True))
        heads = functional_call(fused, state, (kinds, index, vectors))
        return _direct_evaluation(heads, membership)

    return evaluate


class FusedCore(nn.Module):
    """The network as `fused` evaluates it, with compiled sums of messages."""

    def __init__(self, core: HybridCore) -> None:
        super().__init__()
        self.core = core

    def forward(self, kinds: Tensor, index: Tensor, vectors: Tensor) -> CoreHeads:
        """Return the results of all heads."""
        return heads_of(self.core, kinds, index, vectors, CompiledSums.apply)


def compiled(
    evaluate: Evaluate, parameters: Sequence[Tensor], examples: Sequence[Inputs]
) -> Evaluate:
    """Return `evaluate` compiled for the shapes of the given inputs; others raise KeyError."""
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
        arguments = (kinds, vectors, index, reverse, membership)
        outputs: Sequence[Tensor] = of_shape[_shape(arguments)](parameters, *arguments)
        return outputs

    return evaluate_fast


def _shape(arguments: Inputs) -> tuple[int, ...]:
    """Return the number of atoms, the width of the table and the number of systems."""
    _, _, index, _, membership = arguments
    return (*index.shape, len(membership))
