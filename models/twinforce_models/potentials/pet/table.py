"""The edges that a PET sees, found in a table of neighbors: nothing of it is known to the host.

A PET with an adaptive cutoff sees few of the neighbors within its longest one. Those are moved to
the front of rows of their own; what they do not fill is padding, whose factor is zero.
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
_FIRST_PROBE, _PROBES_PER_WIDTH = 0.5, 4.0  # Å; of metatrain's older way, a grid of cutoffs


@dataclass(frozen=True, slots=True, eq=False)
class TableEdges:
    """The edges of a table, as `Edges`, in rows of equal length.

    Attributes:
        kinds: See `Edges`.
        neighbor_kinds: See `Edges`, with n_edges = n_atoms · width.
        geometry: See `Edges`.
        factors: See `Edges`; zero for padding.
        reverse: The edge that leads back, shape [n_edges]; padding is its own.
        log_weights: See `Edges`.
    """

    kinds: Tensor
    neighbor_kinds: Tensor
    geometry: Tensor
    factors: Tensor
    reverse: Tensor
    log_weights: Tensor

    def turned(self, values: Tensor) -> Tensor:
        """Return for each edge the values of the one that leads back."""
        return _turned(values, self.reverse)

    def sum_to_atoms(self, values: Tensor) -> Tensor:
        """Return the sums of values of edges over those of each atom."""
        return values.view(len(self.kinds), -1, *values.shape[1:]).sum(1)

    def in_grid(self, tokens: Tensor) -> Tensor:
        """Return values of tokens as a grid."""
        n_atoms = len(self.kinds)
        own, edges = (
            tokens[:n_atoms].unsqueeze(1),
            tokens[n_atoms:].view(n_atoms, -1, tokens.shape[1]),
        )
        return torch.cat([own, edges], dim=1)

    def out_of_grid(self, grid: Tensor) -> Tensor:
        """Return values of a grid as those of tokens."""
        return torch.cat([grid[:, 0], grid[:, 1:].reshape(-1, grid.shape[2])])


class Turned(torch.autograd.Function):
    """Values in the order of a permutation that undoes itself: gradients go the same way."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, order: Tensor) -> Tensor:
        """Return the values, shape [n, ...], in that order."""
        ctx.save_for_backward(order)
        return values.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient in that order."""
        (order,) = ctx.saved_tensors
        return gradient.index_select(0, order), None


class OfNeighbors(torch.autograd.Function):
    """What the neighbors of each atom have; the gradient is a sum over the edges that lead back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, neighbors: Tensor, reverse: Tensor) -> Tensor:
        """Return values [n_atoms] as [n_atoms, width]; that of padding has no gradient."""
        ctx.save_for_backward(reverse)
        return values[neighbors]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient, shape [n_atoms]."""
        (reverse,) = ctx.saved_tensors
        return gradient.reshape(-1)[reverse].sum(1), None, None


_turned: Callable[[Tensor, Tensor], Tensor] = Turned.apply
_of_neighbors: Callable[[Tensor, Tensor, Tensor], Tensor] = OfNeighbors.apply


def edges_of(
    backend: Any, table: Table, vectors: Tensor, adaptive_width: float, max_seen: int
) -> tuple[TableEdges, Tensor | None]:
    """Return the edges that a network sees in a table, and how many an atom has at most.

    Args:
        backend: metatrain's, for its cutoffs and elements.
        table: With all neighbors within the longest cutoff.
        vectors: Of the table; what the edges depend on differentiably.
        adaptive_width: Over which an adaptive cutoff counts neighbors, in Å.
        max_seen: Room for the edges of an atom, if cutoffs are adaptive.

    Returns:
        The edges; None for the number where all neighbors are seen.
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
    """Return the cutoff within which each atom has about so many neighbors, shape [n_atoms], in Å.

    Args:
        backend: metatrain's, which says how many, and in which of its two ways they are counted.
        distances: Shape [n_atoms, width], in Å.
        is_real: Which of them are no padding, same shape.
        width: Over which a neighbor counts less and less, in Å.
    """
    wanted, longest = backend.num_neighbors_adaptive, float(backend.cutoff)
    distances = torch.where(is_real, distances, 2 * longest)
    if backend.adaptive_cutoff_method.lower() == "grid":
        return _on_grid(distances, wanted, longest, width)
    return _solved(distances, wanted, longest, width)


def _solved(distances: Tensor, wanted: float, longest: float, width: float) -> Tensor:
    """Return the root r of n(r) = wanted, by Newton's method within a bracket that halves.

    With n(r) = Σ_j f(d_j; r) + wanted · (r / longest)³, f from 1 to 0 between r - width and r. The
    derivative of the root is that of one more Newton step: dr = -dn / (∂n/∂r).
    """
    fixed = distances.detach()
    low = fixed.new_zeros(len(fixed))
    high = low + longest
    r = high / 2
    for _ in range(_N_ITERATIONS):
        excess, slope = _counted(fixed, r, wanted, longest, width)
        low, high = torch.where(excess <= 0, r, low), torch.where(excess <= 0, high, r)
        newton = r - excess / slope.clamp(min=1e-6)
        is_inside = (newton >= low) & (newton <= high)
        r = torch.where(is_inside, newton, (low + high) / 2)
    _, slope = _counted(fixed, r, wanted, longest, width)
    counted = cutoff_func_bump(distances, r.unsqueeze(1), width).sum(1)
    excess = counted + wanted * (r / longest) ** 3 - wanted
    root: Tensor = r - excess / slope.clamp(min=1e-6)
    return root.clamp(_SHORTEST * longest, longest)


def _counted(
    distances: Tensor, r: Tensor, wanted: float, longest: float, width: float
) -> tuple[Tensor, Tensor]:
    """Return n(r) - wanted and ∂n/∂r, shapes [n_atoms].

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
    excess = f.sum(1) + wanted * part**3 - wanted
    return excess, slope.sum(1) + 3 * wanted * part**2 / longest


def _on_grid(distances: Tensor, wanted: float, longest: float, width: float) -> Tensor:
    """Return a mean of probed cutoffs, weighted by how close their counts come."""
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
    weights: Tensor = get_gaussian_cutoff_weights(counted, wanted)
    return weights @ probes


def _moved_to_front(is_near: Tensor, max_seen: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return where each of the first `max_seen` entries comes from, which are real, and counts."""
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
