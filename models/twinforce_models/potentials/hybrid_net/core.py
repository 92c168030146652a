"""The network of the native potential: scalars, vectors and tensors passed between neighbors.

Each atom carries features of three kinds: scalars s, vectors v and symmetric traceless tensors t.
A layer gathers them from the neighbors with radial filters and directions (as PaiNN does for
scalars and vectors: Schütt, Unke, Gastegger, arXiv 2102.03150), then combines them on each atom by
products that are equivariant (as TensorNet does with 3 x 3 matrices: Simeon, De Fabritiis,
arXiv 2306.06482). Three heads read the features of the last layer: scalars yield atom energies,
vectors yield direct forces, scalars and tensors together yield the direct stress. All three
therefore rotate exactly with the system, and the two direct heads cost next to nothing.

Every filter ends at the cutoff with two vanishing derivatives, so energies and both kinds of forces
are continuous when a neighbor enters or leaves the cutoff.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from twinforce_models.potentials.hybrid_net.radial import radial_functions
from twinforce_models.potentials.hybrid_net.repulsion import Repulsion


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Size and range of a `HybridNet`.

    Attributes:
        elements: Supported atomic numbers.
        cutoff: Largest distance of a neighbor, in Å.
        n_scalars: Scalar features per atom.
        n_vectors: Vector features per atom.
        n_tensors: Rank-2 features per atom.
        n_layers: Number of message-passing layers.
        n_radial: Number of radial functions that the filters are made from.
        mean_n_neighbors: Scale of sums over neighbors.
        repulsion_radii: Radius of each element, in Å. Atoms that are closer than the sum of theirs
            repel each other: see `repulsion`. Empty: there is no repulsion.
    """

    elements: tuple[int, ...]
    cutoff: float = 4.5
    n_scalars: int = 64
    n_vectors: int = 32
    n_tensors: int = 16
    n_layers: int = 3
    n_radial: int = 12
    mean_n_neighbors: float = 36.0
    repulsion_radii: tuple[float, ...] = field(default=(), metadata={"is_added_later": True})

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "Hyperparameters":
        """Return the hyperparameters with the values of `asdict`, as JSON or TOML has them.

        Raises:
            TypeError: If a value is missing or unknown.
        """
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})


class NeighborTable(NamedTuple):
    """Neighbors as rows of equal length, one row per atom, padded.

    A sum over a row is a plain reduction, which compilers fuse with its operand; the same sum over
    a flat list of pairs is a scatter, which they do not fuse.

    Attributes:
        neighbors: Index of each neighbor; padding points at the atom itself. Shape [n_atoms, k].
        vectors: From the atom to the neighbor; padding lies at the cutoff, where every filter is
            zero. Shape [n_atoms, k, 3], in Å.
    """

    neighbors: Tensor
    vectors: Tensor


class Features(NamedTuple):
    """Features of the atoms: `s` [n, n_scalars], `v` [n, 3, n_vectors], `t` [n, 5, n_tensors]."""

    s: Tensor
    v: Tensor
    t: Tensor


class CoreHeads(NamedTuple):
    """Results of `HybridCore` per atom, in the units of its training data.

    Attributes:
        local_energies: Without the elements' reference energies. Shape [n_atoms], in eV.
        direct_forces: Shape [n_atoms, 3], in eV/Å.
        direct_strain_gradients: Volume times direct stress, split over atoms. Shape
            [n_atoms, 3, 3], in eV.
    """

    local_energies: Tensor
    direct_forces: Tensor
    direct_strain_gradients: Tensor


def tensor_basis() -> Tensor:
    """Return five symmetric traceless matrices, orthonormal under A:B. Shape [5, 3, 3]."""
    basis = torch.zeros(5, 3, 3, dtype=torch.float64)
    for m, (a, b) in enumerate([(0, 1), (0, 2), (1, 2)]):
        basis[m, a, b] = basis[m, b, a] = 2**-0.5
    basis[3].diagonal()[:] = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64) / 2**0.5
    basis[4].diagonal()[:] = torch.tensor([-1.0, -1.0, 2.0], dtype=torch.float64) / 6**0.5
    return basis


class Mlp(nn.Module):
    """Two linear maps with a SiLU in between."""

    def __init__(self, n_in: int, n_hidden: int, n_out: int) -> None:
        super().__init__()
        self.inner = nn.Linear(n_in, n_hidden)
        self.outer = nn.Linear(n_hidden, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return shape [..., n_out]."""
        y: Tensor = self.outer(silu(self.inner(x)))
        return y


class MessagePassing(nn.Module):
    """The sums of messages that an atom receives from its neighbors.

        s_i = Σ_j W0 a0_j       v_i = Σ_j W1 a1_j u + W3 v_j       t_i = Σ_j W2 a2_j Y(u) + W4 t_j

    with filters W(r_ij), the direction u = r_ij / |r_ij|, its traceless square Y(u), and
    features of the neighbor that are gated by the neighbor's own scalars.
    """

    def __init__(self, h: Hyperparameters, *, first: bool) -> None:
        super().__init__()
        self.widths = [h.n_scalars, h.n_vectors, h.n_tensors]
        if not first:  # vectors and tensors are still zero in the first layer
            self.widths += [h.n_vectors, h.n_tensors]
        self.scale = h.mean_n_neighbors**-0.5
        self.gate = Mlp(h.n_scalars, h.n_scalars, sum(self.widths))
        self.filter = nn.Linear(h.n_radial, sum(self.widths), bias=False)
        nn.init.normal_(self.filter.weight, std=h.n_radial**-0.5)

    def forward(self, x: Features, radial: Tensor, u: Tensor, y: Tensor, index: Tensor) -> Features:
        """Return the sums over the neighbors of each atom."""
        w = self.filter(radial).unsqueeze(2).split(self.widths, dim=-1)
        gates = self.gate(x.s).split(self.widths, dim=-1)
        s = w[0].squeeze(2) * _of_neighbors(gates[0], index)
        v = (w[1] * _of_neighbors(gates[1], index).unsqueeze(2)) * u.unsqueeze(-1)
        t = (w[2] * _of_neighbors(gates[2], index).unsqueeze(2)) * y.unsqueeze(-1)
        if len(w) > 3:
            v = v + w[3] * _of_neighbors(x.v * gates[3].unsqueeze(1), index)
            t = t + w[4] * _of_neighbors(x.t * gates[4].unsqueeze(1), index)
        return Features(s.sum(1) * self.scale, v.sum(1) * self.scale, t.sum(1) * self.scale)


def _of_neighbors(feature: Tensor, index: Tensor) -> Tensor:
    """Return [n_atoms, ...] as [n_atoms, k, ...].

    Uses index_select because the backward pass of advanced indexing is slow on a CPU.
    """
    return feature.index_select(0, index.reshape(-1)).view(*index.shape, *feature.shape[1:])


class Update(nn.Module):
    """The update of an atom's features from its messages, by equivariant products of features."""

    basis: Tensor

    def __init__(self, h: Hyperparameters) -> None:
        super().__init__()
        s, v, t = h.n_scalars, h.n_vectors, h.n_tensors
        self.hear_s = nn.Linear(s, s, bias=False)
        self.hear_v = nn.Linear(v, v, bias=False)
        self.hear_t = nn.Linear(t, t, bias=False)
        self.mix_v = nn.Linear(v, 2 * v + 2 * t, bias=False)
        self.mix_t = nn.Linear(t, 2 * t, bias=False)
        self.widths = [s, v, t, v, t, t, t, t]
        self.gate = Mlp(s + v + t, 2 * s, sum(self.widths))
        self.read_v = nn.Linear(v, s, bias=False)
        self.read_t = nn.Linear(t, s, bias=False)
        self.write_v = nn.Linear(t, v, bias=False)
        self.register_buffer("basis", tensor_basis(), persistent=False)

    def forward(self, x: Features, messages: Features) -> Features:
        """Return the new features."""
        s = x.s + self.hear_s(messages.s)
        v = x.v + self.hear_v(messages.v)
        t = x.t + self.hear_t(messages.t)
        n_v, n_t = v.shape[-1], t.shape[-1]
        v1, v2, v3, v4 = self.mix_v(v).split([n_v, n_v, n_t, n_t], dim=-1)
        t1, t2 = self.mix_t(t).split([n_t, n_t], dim=-1)
        vv = (v1 * v2).sum(1)
        tt = (t1 * t2).sum(1)
        g = self.gate(torch.cat([s, vv, tt], dim=-1)).split(self.widths, dim=-1)
        m1, m2 = self._matrices(t1), self._matrices(t2)
        tv = (m1 * v3.unsqueeze(1)).sum(2) * g[4].unsqueeze(1)
        pair = v3.unsqueeze(2) * v4.unsqueeze(1) * g[6][:, None, None]
        pair = pair + (m1.unsqueeze(3) * m2.unsqueeze(1)).sum(2) * g[7][:, None, None]
        return Features(
            s + g[0] + self.read_v(g[1] * vv) + self.read_t(g[2] * tt),
            v + g[3].unsqueeze(1) * v1 + self.write_v(tv),
            t + g[5].unsqueeze(1) * t1 + self._traceless(pair),
        )

    def _matrices(self, t: Tensor) -> Tensor:
        """Return [n, 5, f] as matrices [n, 3, 3, f]."""
        return torch.einsum("mab,nmf->nabf", self.basis.to(t.dtype), t)

    def _traceless(self, matrices: Tensor) -> Tensor:
        """Return the symmetric traceless part of [n, 3, 3, f] as [n, 5, f]."""
        return torch.einsum("mab,nabf->nmf", self.basis.to(matrices.dtype), matrices)


class VectorReadout(nn.Module):
    """One vector (or tensor) per atom, read from features of that kind and gated by scalars."""

    def __init__(self, n_scalars: int, n_features: int) -> None:
        super().__init__()
        self.mix = nn.Linear(n_features, n_features, bias=False)
        self.gate = Mlp(n_scalars + n_features, n_scalars, n_features)
        self.outer = nn.Linear(n_features, 1, bias=False)

    def forward(self, s: Tensor, v: Tensor) -> Tensor:
        """Return shape [n_atoms, m] for `v` of shape [n_atoms, m, f]."""
        mixed = self.mix(v)
        gate = self.gate(torch.cat([s, (mixed * mixed).sum(1)], dim=-1))
        read: Tensor = self.outer(gate.unsqueeze(1) * mixed).squeeze(-1)
        return read


class HybridCore(nn.Module):
    """The bare network, from element indices and a `NeighborTable` to results per atom."""

    basis: Tensor
    energy_scale: Tensor
    force_scale: Tensor

    def __init__(self, hyperparameters: Hyperparameters) -> None:
        super().__init__()
        h = hyperparameters
        self.hyperparameters = h
        self.embedding = nn.Embedding(len(h.elements), h.n_scalars)
        self.messages = nn.ModuleList(
            MessagePassing(h, first=layer == 0) for layer in range(h.n_layers)
        )
        self.updates = nn.ModuleList(Update(h) for _ in range(h.n_layers))
        self.energy_head = Mlp(h.n_scalars, h.n_scalars, 1)
        self.force_head = VectorReadout(h.n_scalars, h.n_vectors)
        self.stress_head = VectorReadout(h.n_scalars, h.n_tensors)
        self.pressure_head = Mlp(h.n_scalars, h.n_scalars, 1)
        self.repulsion = Repulsion(h.elements, h.repulsion_radii) if h.repulsion_radii else None
        self.register_buffer("basis", tensor_basis(), persistent=False)
        self.register_buffer("energy_scale", torch.ones(()))
        self.register_buffer("force_scale", torch.ones(()))

    def features(self, kinds: Tensor, table: NeighborTable) -> Features:
        """Return the features of the last layer; `kinds` [n_atoms] are indices into `elements`."""
        h = self.hyperparameters
        squared = (table.vectors * table.vectors).sum(-1)
        distances = (squared + 1e-12).sqrt()
        u = table.vectors / distances.unsqueeze(-1)
        y = torch.einsum("mab,nka,nkb->nkm", self.basis.to(u.dtype), u, u)
        if self.repulsion is not None:
            distances = self.repulsion.seen_distances(kinds, table.neighbors, distances)
        radial = radial_functions(distances, h.cutoff, h.n_radial)
        s = self.embedding(kinds)
        x = Features(s, s.new_zeros(len(s), 3, h.n_vectors), s.new_zeros(len(s), 5, h.n_tensors))
        for pass_messages, update in zip(self.messages, self.updates, strict=True):
            x = update(x, pass_messages(x, radial, u, y, table.neighbors))
        return x

    def energies(self, x: Features) -> Tensor:
        """Return `local_energies` without the repulsion."""
        e: Tensor = self.energy_head(x.s).squeeze(-1)
        return e * self.energy_scale

    def direct_forces(self, x: Features) -> Tensor:
        """Return `direct_forces` without the repulsion."""
        f: Tensor = self.force_head(x.s, x.v)
        return f * self.force_scale

    def direct_strain_gradients(self, x: Features) -> Tensor:
        """Return `direct_strain_gradients` without the repulsion."""
        deviatoric = torch.einsum(
            "mab,nm->nab", self.basis.to(x.t.dtype), self.stress_head(x.s, x.t)
        )
        isotropic = self.pressure_head(x.s).unsqueeze(-1) * torch.eye(3).to(x.s)
        total: Tensor = (deviatoric + isotropic) * self.force_scale
        return total

    def local_energies(self, kinds: Tensor, table: NeighborTable) -> Tensor:
        """Return the results of the energy head alone, with the repulsion."""
        energies = self.energies(self.features(kinds, table))
        if self.repulsion is None:
            return energies
        added: Tensor = self.repulsion(kinds, *table).energies
        return energies + added

    def forward(self, kinds: Tensor, table: NeighborTable) -> CoreHeads:
        """Return the results of all heads, from one pass."""
        x = self.features(kinds, table)
        heads = CoreHeads(self.energies(x), self.direct_forces(x), self.direct_strain_gradients(x))
        return self.with_repulsion(heads, kinds, table)

    def with_repulsion(self, heads: CoreHeads, kinds: Tensor, table: NeighborTable) -> CoreHeads:
        """Return the heads with the repulsion added, if there is any."""
        if self.repulsion is None:
            return heads
        added = self.repulsion(kinds, *table)
        return CoreHeads(*(head + more for head, more in zip(heads, added, strict=True)))
