"""The edges of a PET from a table of neighbors, without transfers between host and device.

A PET with an adaptive cutoff uses few of the neighbors within its longest cutoff. These are moved
to the front of narrower rows; the rest of a row is padding, whose cutoff factor is zero.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from metatrain.pet.modules.adaptive_cutoff import get_gaussian_cutoff_weights
from metatrain.pet.modules.utilities import cutoff_func_bump
from torch import Tensor

from twinforce_models.potentials.pet.edges import SMALLEST, lengths, switched
from twinforce_models.tables.search import reversed_places
from twinforce_models.tables.table import Table

_N_ITERATIONS = 10  # of Newton's method, as metatrain does; enough for float32
_SHORTEST = 1 / 16  # of the longest cutoff
# metatrain's older method uses a grid of cutoffs: the first one in Å, and their number per width.
_FIRST_PROBE, _PROBES_PER_WIDTH = 0.5, 4.0


@dataclass(frozen=True, slots=True, eq=False)
class TableEdges:
    """The edges of a table, as `Edges`, in rows of equal length.

    Attributes:
        kinds: See `Edges`.
        neighbor_kinds: See `Edges`, with n_edges = n_atoms · width.
        geometry: See `Edges`.
        factors: See `Edges`; zero for padding.
        reverse: Index of the reverse edge, shape [n_edges]; for padding, its own index.
        log_weights: See `Edges`.
    """

    kinds: Tensor
    neighbor_kinds: Tensor
    geometry: Tensor
    factors: Tensor
    reverse: Tensor
    log_weights: Tensor

    def of_reverse(self, values: Tensor) -> Tensor:
        """Return, for each edge, the values of the reverse edge."""
        return _permuted(values, self.reverse)

    def sum_to_atoms(self, values: Tensor) -> Tensor:
        """Return the sums over the edges of each atom."""
        return values.view(len(self.kinds), -1, *values.shape[1:]).sum(1)

    def to_grid(self, tokens: Tensor) -> Tensor:
        """Return values of tokens as a grid."""
        n_atoms = len(self.kinds)
        own, edges = (
            tokens[:n_atoms].unsqueeze(1),
            tokens[n_atoms:].view(n_atoms, -1, tokens.shape[1]),
        )
        return torch.cat([own, edges], dim=1)

    def from_grid(self, grid: Tensor) -> Tensor:
        """Return values of a grid as values of tokens."""
        return torch.cat([grid[:, 0], grid[:, 1:].reshape(-1, grid.shape[2])])


class Involution(torch.autograd.Function):
    """Reordering by a permutation that is its own inverse, so that it applies to gradients too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, order: Tensor) -> Tensor:
        """Return the values, shape [n, ...], in the given order."""
        ctx.save_for_backward(order)
        return values.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient in the given order."""
        (order,) = ctx.saved_tensors
        return gradient.index_select(0, order), None


class GatherFromNeighbors(torch.autograd.Function):
    """A gather of values of neighbors whose gradient is a sum over reverse edges."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, neighbors: Tensor, reverse: Tensor) -> Tensor:
        """Return values [n_atoms] as [n_atoms, width]; values of padding have no gradient."""
        ctx.save_for_backward(reverse)
        return values[neighbors]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient, shape [n_atoms]."""
        (reverse,) = ctx.saved_tensors
        return gradient.reshape(-1)[reverse].sum(1), None, None


_permuted: Callable[[Tensor, Tensor], Tensor] = Involution.apply
_of_neighbors: Callable[[Tensor, Tensor, Tensor], Tensor] = GatherFromNeighbors.apply


def edges_of(
    backend: Any, table: Table, vectors: Tensor, adaptive_width: float, max_seen: int
) -> tuple[TableEdges, Tensor | None]:
    """Return the edges of a table, and the largest number of edges of an atom.

    Args:
        backend: metatrain's network, which has the cutoffs and the elements.
        table: Table with all neighbors within the longest cutoff.
        vectors: Vectors of the table, with respect to which the edges are differentiable.
        adaptive_width: Width of the switch by which an adaptive cutoff counts neighbors, in Å.
        max_seen: Number of edges per atom that fit into a row, if cutoffs are adaptive.

    Returns:
        The edges; and the number, or None if cutoffs are not adaptive and all neighbors are edges.
    """
    kinds = backend.species_to_species_index.index_select(0, table.atomic_numbers)
    distances, is_real = lengths(vectors), table.is_real
    n_seen: Tensor | None = None
    if backend.num_neighbors_adaptive is None:
        neighbors = table.neighbors
        cutoffs = torch.full_like(distances, backend.cutoff)
        reverse = reversed_places(neighbors, table.shifts, table.counts)
    else:
        own = adaptive_cutoffs(backend, distances, is_real, adaptive_width)
        fixed, lengths_now = own.detach(), distances.detach()
        is_near = is_real & (lengths_now <= (fixed.unsqueeze(1) + fixed[table.neighbors]) / 2)
        slots, is_real, counts = _moved_to_front(is_near, max_seen)
        n_seen = counts.max()
        neighbors = _kept(table.neighbors, slots, is_real, _rows(table.neighbors))
        shifts = _kept(table.shifts, slots, is_real, torch.zeros_like(counts).unsqueeze(1))
        reverse = reversed_places(neighbors, shifts, counts)
        vectors = vectors.gather(1, slots.unsqueeze(-1).expand(-1, -1, 3))
        distances = distances.gather(1, slots)
        cutoffs = (own.unsqueeze(1) + _of_neighbors(own, neighbors, reverse)) / 2
    factors = torch.where(is_real, switched(backend, distances, cutoffs), 0.0)
    weights = torch.cat([torch.ones_like(factors[:, :1]), factors], dim=1)
    edges = TableEdges(
        kinds=kinds,
        neighbor_kinds=kinds[neighbors].view(-1),
        geometry=torch.cat([vectors, distances.unsqueeze(2)], dim=2).view(-1, 4),
        factors=factors.view(-1),
        reverse=reverse.view(-1),
        log_weights=weights.clamp(min=SMALLEST).log(),
    )
    return edges, n_seen


def adaptive_cutoffs(backend: Any, distances: Tensor, is_real: Tensor, width: float) -> Tensor:
    """Return the adaptive cutoff of each atom, shape [n_atoms], in Å.

    Each atom has about the same number of neighbors within its cutoff.

    Args:
        backend: metatrain's network, which has the number of neighbors and the method of counting.
        distances: Shape [n_atoms, width], in Å.
        is_real: False for padding, same shape.
        width: Width of the switch by which neighbors are counted, in Å.
    """
    target, longest = backend.num_neighbors_adaptive, float(backend.cutoff)
    distances = torch.where(is_real, distances, 2 * longest)
    if backend.adaptive_cutoff_method.lower() == "grid":
        return _on_grid(distances, target, longest, width)
    return _solved(distances, target, longest, width)


def _solved(distances: Tensor, target: float, longest: float, width: float) -> Tensor:
    """Return the root r of n(r) = target, by Newton's method with bisection as a safeguard.

    n(r) = Σ_j f(d_j; r) + target · (r / longest)³, where f falls from 1 to 0 between r - width and
    r. The derivative of the root is that of one more Newton step: dr = -dn / (∂n/∂r).
    """
    fixed = distances.detach()
    low = fixed.new_zeros(len(fixed))
    high = low + longest
    r = high / 2
    for _ in range(_N_ITERATIONS):
        excess, slope = _counted(fixed, r, target, longest, width)
        low, high = torch.where(excess <= 0, r, low), torch.where(excess <= 0, high, r)
        newton = r - excess / slope.clamp(min=1e-6)
        is_inside = (newton >= low) & (newton <= high)
        r = torch.where(is_inside, newton, (low + high) / 2)
    _, slope = _counted(fixed, r, target, longest, width)
    counted = cutoff_func_bump(distances, r.unsqueeze(1), width).sum(1)
    excess = counted + target * (r / longest) ** 3 - target
    root: Tensor = r - excess / slope.clamp(min=1e-6)
    return root.clamp(_SHORTEST * longest, longest)


def _counted(
    distances: Tensor, r: Tensor, target: float, longest: float, width: float
) -> tuple[Tensor, Tensor]:
    """Return n(r) - target and ∂n/∂r, shapes [n_atoms].

    f = (1 + t) / 2 with t = tanh cot πx, x = 1 + (d - r) / width, and so
    ∂f/∂r = π (1 - t²) / (2 width sin² πx), where 0 < x < 1.
    """
    x = 1 + (distances - r.unsqueeze(1)) / width
    angle = math.pi * x.clamp(1e-6, 1 - 1e-6)
    sine = angle.sin()
    t = (angle.cos() / sine).tanh()
    is_between = (x > 0) & (x < 1)
    f = torch.where(is_between, (1 + t) / 2, (x <= 0).to(x.dtype))
    slope = torch.where(is_between, (math.pi / (2 * width)) * (1 - t * t) / (sine * sine), 0.0)
    part = r / longest
    excess = f.sum(1) + target * part**3 - target
    return excess, slope.sum(1) + 3 * target * part**2 / longest


def _on_grid(distances: Tensor, target: float, longest: float, width: float) -> Tensor:
    """Return the mean of probed cutoffs, weighted by how close their counts are to the target."""
    probes = torch.arange(
        _FIRST_PROBE,
        longest,
        width / _PROBES_PER_WIDTH,
        dtype=distances.dtype,
        device=distances.device,
    )
    counted = torch.stack(
        [cutoff_func_bump(distances, probe, width).sum(1) for probe in probes.unbind()], dim=1
    )
    weights: Tensor = get_gaussian_cutoff_weights(counted, target)
    return weights @ probes


def _moved_to_front(is_near: Tensor, max_seen: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the layout of rows in which near entries come first.

    Returns:
        The former index of each of the first `max_seen` entries, shape [n_atoms, max_seen]; False
        for padding, same shape; and the number of near entries, shape [n_atoms].
    """
    n_atoms, width = is_near.shape
    place = is_near.cumsum(1, dtype=torch.int32)
    counts = place[:, -1].contiguous()
    target = torch.where(is_near, place - 1, max_seen).clamp(max=max_seen).long()
    source = torch.arange(width, device=is_near.device).expand(n_atoms, -1)
    slots = source.new_zeros(n_atoms, max_seen + 1).scatter(1, target, source)[:, :max_seen]
    is_real = torch.arange(max_seen, device=is_near.device) < counts.unsqueeze(1)
    return torch.where(is_real, slots, 0), is_real, counts


def _kept(values: Tensor, slots: Tensor, is_real: Tensor, padding: Tensor) -> Tensor:
    return torch.where(is_real, values.gather(1, slots), padding)


def _rows(neighbors: Tensor) -> Tensor:
    return torch.arange(len(neighbors), device=neighbors.device).unsqueeze(1)
