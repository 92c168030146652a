"""The network of `core`, written for a compiler: the same function by other operations.

Two things differ; none of them would speed up an eager evaluation:

* Components come first, v [3, n_atoms, f] and t [5, n_atoms, f], and are written out, so that a
  compiler fuses the operations on each component into one loop over the features.
* The derivative of message passing needs no scatter; see `messages`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from twinforce_models.potentials.hybrid_net.core import (
    CoreHeads,
    HybridCore,
    MessagePassing,
    Mlp,
    NeighborTable,
    Update,
    VectorReadout,
)
from twinforce_models.potentials.hybrid_net.messages import (
    Components,
    MessageSums,
    SumOverNeighbors,
    dot,
)
from twinforce_models.potentials.hybrid_net.radial import radial_functions

_R2, _R6 = 2**-0.5, 6**-0.5  # factors of the orthonormal basis, see `tensor_basis`


class Inputs(NamedTuple):
    """The inputs of an evaluation: atoms and their neighbors, as rows of equal length.

    Attributes:
        kinds: Indices into the elements of the network, shape [n_atoms].
        neighbors: Index of each neighbor; padding points at the atom itself. Shape [n_atoms, k].
            Each pair must be listed from both ends.
        vectors: From the atom to the neighbor; padding lies one cutoff away. Shape
            [n_atoms, k, 3], in Å.
        reverse: The reverse index of each pair in the flattened table, shape [n_atoms, k]. With it,
            the forces on the other ends are gathered. Without it, they are scattered, which a GPU
            does in an order that varies from run to run.
    """

    kinds: Tensor
    neighbors: Tensor
    vectors: Tensor
    reverse: Tensor | None = None


class HybridHeads(NamedTuple):
    """The results of `CoreHeads`, and those that follow from the gradient of the energy, per atom.

    Attributes:
        local_energies: As in `CoreHeads`.
        direct_forces: As in `CoreHeads`.
        direct_strain_gradients: As in `CoreHeads`.
        conservative_forces: Shape [n_atoms, 3], in eV/Å.
        strain_gradients: Volume times conservative stress, split over atoms. Shape
            [n_atoms, 3, 3], in eV.
    """

    local_energies: Tensor
    direct_forces: Tensor
    direct_strain_gradients: Tensor
    conservative_forces: Tensor
    strain_gradients: Tensor


def direct(core: HybridCore, inputs: Inputs) -> CoreHeads:
    """Evaluate the heads without building a graph."""
    return heads_of(core, inputs.kinds, inputs.neighbors, inputs.vectors)


def hybrid(core: HybridCore, inputs: Inputs) -> HybridHeads:
    """Evaluate the heads and the gradient of the energy, traceable into a single graph."""
    vectors = inputs.vectors.detach().requires_grad_()
    with torch.enable_grad():
        heads = heads_of(core, inputs.kinds, inputs.neighbors, vectors)
        (gradient,) = torch.autograd.grad(heads.local_energies.sum(), vectors)
    strain_gradients = (vectors.detach().unsqueeze(-1) * gradient.unsqueeze(-2)).sum(1)
    return HybridHeads(
        heads.local_energies.detach(),
        heads.direct_forces.detach(),
        heads.direct_strain_gradients.detach(),
        gradient.sum(1) - _sum_at_neighbors(inputs, gradient),
        strain_gradients,
    )


def _sum_at_neighbors(inputs: Inputs, gradient: Tensor) -> Tensor:
    """Return, for each atom, the sum of gradients over the pairs in which it is the neighbor."""
    of_pairs = gradient.reshape(-1, 3)
    if inputs.reverse is not None:
        return of_pairs[inputs.reverse].sum(1)
    total = torch.zeros_like(gradient[:, 0])
    return total.index_add(0, inputs.neighbors.reshape(-1), of_pairs)


def heads_of(
    core: HybridCore,
    kinds: Tensor,
    neighbors: Tensor,
    vectors: Tensor,
    sum_over_neighbors: SumOverNeighbors = MessageSums.apply,
) -> CoreHeads:
    """Return the results of all heads, with an implementation of the sums of messages."""
    h = core.hyperparameters
    x, y, z = vectors.unbind(-1)
    distances = (x * x + y * y + z * z + 1e-12).sqrt()
    u = torch.stack([x, y, z], dim=-1) / distances.unsqueeze(-1)
    if core.repulsion is not None:
        distances = core.repulsion.seen_distances(kinds, neighbors, distances)
    radial = radial_functions(distances, h.cutoff, h.n_radial)
    squares = torch.stack(_traceless_square(u.unbind(-1)), dim=-1)
    s = core.embedding(kinds)
    v = t = None
    for layer, update in zip(core.messages, core.updates, strict=True):
        assert isinstance(layer, MessagePassing)
        assert isinstance(update, Update)
        sums = partial(sum_over_neighbors, layer.widths, neighbors)
        messages = _pass_messages(layer, (s, v, t), radial, u, squares, sums)
        s, v, t = _update(update, (s, v, t), messages)
    assert v is not None
    assert t is not None
    forces = _readout(core.force_head, s, v).T * core.force_scale
    deviatoric = _matrices(_readout(core.stress_head, s, t))
    pressure = _mlp(core.pressure_head, s).squeeze(-1)
    heads = CoreHeads(
        _mlp(core.energy_head, s).squeeze(-1) * core.energy_scale,
        forces,
        _stacked(deviatoric, pressure) * core.force_scale,
    )
    return core.with_repulsion(heads, kinds, NeighborTable(neighbors, vectors))


def _pass_messages(
    layer: MessagePassing,
    x: tuple[Tensor, Tensor | None, Tensor | None],
    radial: Tensor,
    u: Tensor,
    squares: Tensor,
    sums: Callable[..., tuple[Tensor, Tensor, Tensor]],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums of messages that each atom receives: see `MessagePassing.forward`."""
    s, v, t = x
    filters = radial @ (layer.filter.weight.T * layer.scale)
    gates = _mlp(layer.gate, s)
    if v is None or t is None:
        return sums(filters, u, squares, gates)
    gates, of_v, of_t = gates.split([sum(layer.widths[:3]), *layer.widths[3:]], dim=-1)
    features = gates, v * of_v, t * of_t
    return sums(filters, u, squares, *features)


def _update(
    update: Update,
    x: tuple[Tensor, Tensor | None, Tensor | None],
    messages: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the new features: see `Update.forward`."""
    s = x[0] + linear(messages[0], update.hear_s.weight)
    v, t = linear(messages[1], update.hear_v.weight), linear(messages[2], update.hear_t.weight)
    v, t = (v if x[1] is None else x[1] + v), (t if x[2] is None else x[2] + t)
    n_v, n_t = v.shape[-1], t.shape[-1]
    v1, v2, v3, v4 = linear(v, update.mix_v.weight).split([n_v, n_v, n_t, n_t], dim=-1)
    t1, t2 = linear(t, update.mix_t.weight).split([n_t, n_t], dim=-1)
    vv, tt = dot(v1, v2), dot(t1, t2)
    g = _mlp(update.gate, torch.cat([s, vv, tt], dim=-1)).split(update.widths, dim=-1)
    m1, m2 = _matrices(t1), _matrices(t2)
    tv = torch.stack([dot(row, v3) * g[4] for row in m1])
    pair = [[v3[a] * v4[b] * g[6] + dot(m1[a], m2[b]) * g[7] for b in range(3)] for a in range(3)]
    return (
        s
        + g[0]
        + linear(g[1] * vv, update.read_v.weight)
        + linear(g[2] * tt, update.read_t.weight),
        v + g[3] * v1 + linear(tv, update.write_v.weight),
        t + g[5] * t1 + torch.stack(_traceless(pair)),
    )


def _readout(readout: VectorReadout, s: Tensor, v: Tensor) -> Tensor:
    """Return shape [m, n_atoms] for `v` of shape [m, n_atoms, f]: see `VectorReadout.forward`."""
    mixed = linear(v, readout.mix.weight)
    gate = _mlp(readout.gate, torch.cat([s, dot(mixed, mixed)], dim=-1))
    return linear(gate * mixed, readout.outer.weight).squeeze(-1)


def _mlp(mlp: Mlp, x: Tensor) -> Tensor:
    return linear(
        silu(linear(x, mlp.inner.weight, mlp.inner.bias)), mlp.outer.weight, mlp.outer.bias
    )


def _traceless_square(u: Components) -> Components:
    """Return the five components of the traceless part of u ⊗ u."""
    x, y, z = u
    off_diagonal = [2 * _R2 * x * y, 2 * _R2 * x * z, 2 * _R2 * y * z]
    return [*off_diagonal, _R2 * (x * x - y * y), _R6 * (2 * z * z - x * x - y * y)]


def _matrices(t: Tensor) -> list[list[Tensor]]:
    """Return rows of symmetric matrices from five components [5, ...]."""
    xy, xz, yz = (_R2 * component for component in t[:3])
    xx, yy, zz = _R2 * t[3] - _R6 * t[4], -_R2 * t[3] - _R6 * t[4], 2 * _R6 * t[4]
    return [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]


def _traceless(p: list[list[Tensor]]) -> Components:
    """Return the five components of the symmetric traceless part of matrices."""
    off_diagonal = [_R2 * (p[a][b] + p[b][a]) for a, b in ((0, 1), (0, 2), (1, 2))]
    trace = _R6 * (2 * p[2][2] - p[0][0] - p[1][1])
    return [*off_diagonal, _R2 * (p[0][0] - p[1][1]), trace]


def _stacked(rows: list[list[Tensor]], diagonal: Tensor) -> Tensor:
    """Return matrices [n, 3, 3] with `diagonal` [n] added to their diagonals."""
    entries = [
        torch.stack([value + diagonal if a == b else value for b, value in enumerate(row)], -1)
        for a, row in enumerate(rows)
    ]
    return torch.stack(entries, dim=1)
