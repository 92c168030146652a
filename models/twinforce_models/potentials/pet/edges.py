"""The edges of a PET: cutoff factors, reverse edges, and positions in a padded grid of tokens."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from metatrain.pet.modules.adaptive_cutoff import (
    get_adaptive_cutoffs_grid,
    get_adaptive_cutoffs_solver,
)
from metatrain.pet.modules.utilities import cutoff_func_bump, cutoff_func_cosine
from torch import Tensor

from twinforce_models.batch import Batch, reversed_pairs

SMALLEST = 1e-15
_ADAPTIVE = {"solver": get_adaptive_cutoffs_solver, "grid": get_adaptive_cutoffs_grid}
_SWITCHES = {"bump": cutoff_func_bump, "cosine": cutoff_func_cosine}


class Edges(Protocol):
    """Directed edges from atoms to neighbors.

    There is one token for each atom, followed by one token for each edge.
    """

    @property
    def kinds(self) -> Tensor:
        """Index of the element of each atom, shape [n_atoms]."""

    @property
    def neighbor_kinds(self) -> Tensor:
        """Index of the element of each neighbor, shape [n_edges]."""

    @property
    def geometry(self) -> Tensor:
        """Vector to the neighbor and distance, shape [n_edges, 4], in Å."""

    @property
    def factors(self) -> Tensor:
        """Cutoff factor, from 1 down to 0 at the cutoff, shape [n_edges]."""

    @property
    def log_weights(self) -> Tensor:
        """Term that attention adds to the scores of each token, shape [n_atoms, width]."""

    def of_reverse(self, values: Tensor) -> Tensor:
        """Return, for each edge, the values of the reverse edge."""

    def sum_to_atoms(self, values: Tensor) -> Tensor:
        """Return the sums over the edges of each atom."""

    def to_grid(self, tokens: Tensor) -> Tensor:
        """Return values of tokens as a grid, shape [n_atoms, width, ...]; atoms come first."""

    def from_grid(self, grid: Tensor) -> Tensor:
        """Return values of a grid, shape [n_atoms, width, d], as values of tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class ListedEdges:
    """The edges of a batch, as `Edges`.

    Attributes:
        centers: Shape [n_edges], non-decreasing.
        kinds: See `Edges`.
        neighbor_kinds: See `Edges`.
        geometry: See `Edges`.
        factors: See `Edges`.
        reverse: Index of the edge from the neighbor to the center, shape [n_edges].
        grid: Indices of tokens, shape [n_atoms, width]: in each row, the atom's token, the tokens
            of its edges, and the atom's token again as padding.
        places: Index of each token in the flattened grid, shape [n_atoms + n_edges].
        log_weights: See `Edges`.
    """

    centers: Tensor
    kinds: Tensor
    neighbor_kinds: Tensor
    geometry: Tensor
    factors: Tensor
    reverse: Tensor
    grid: Tensor
    places: Tensor
    log_weights: Tensor

    def of_reverse(self, values: Tensor) -> Tensor:
        """Return, for each edge, the values of the reverse edge."""
        return values.index_select(0, self.reverse)

    def sum_to_atoms(self, values: Tensor) -> Tensor:
        """Return the sums over the edges of each atom."""
        total = values.new_zeros(len(self.kinds), *values.shape[1:])
        return total.index_add(0, self.centers, values)

    def to_grid(self, tokens: Tensor) -> Tensor:
        """Return values of tokens as a grid; padding repeats the atom's token."""
        return tokens.index_select(0, self.grid.view(-1)).view(*self.grid.shape, -1)

    def from_grid(self, grid: Tensor) -> Tensor:
        """Return values of a grid as values of tokens."""
        return grid.reshape(self.grid.numel(), -1).index_select(0, self.places)


def find_edges(backend: Any, batch: Batch, adaptive_width: float) -> ListedEdges:
    """Return the edges of a batch, differentiable.

    Args:
        backend: metatrain's network, which has the cutoffs and the elements.
        batch: Batch with all pairs within the longest cutoff.
        adaptive_width: Width of the switch by which an adaptive cutoff counts neighbors, in Å.
    """
    (centers, neighbors), shifts = batch.pairs, batch.shifts
    vectors = batch.displacements()
    distances = lengths(vectors)
    cutoffs: Tensor | None = None
    if backend.num_neighbors_adaptive is not None:
        cutoffs = _pair_cutoffs(backend, batch, distances, adaptive_width)
        near = (distances <= cutoffs).nonzero().squeeze(1)
        centers, neighbors, shifts, vectors, distances, cutoffs = (
            values.index_select(0, near)
            for values in (centers, neighbors, shifts, vectors, distances, cutoffs)
        )
    else:
        cutoffs = torch.full_like(distances, backend.cutoff)
    factors = switched(backend, distances, cutoffs)
    kinds = backend.species_to_species_index.index_select(0, batch.atomic_numbers)
    grid, places = _arranged(centers, batch.n_atoms)
    return ListedEdges(
        centers=centers,
        kinds=kinds,
        neighbor_kinds=kinds.index_select(0, neighbors),
        geometry=torch.cat([vectors, distances.unsqueeze(1)], dim=1),
        factors=factors,
        reverse=reversed_pairs(centers, neighbors, shifts),
        grid=grid,
        places=places,
        log_weights=_log_weights(factors, grid, places),
    )


def switched(backend: Any, distances: Tensor, cutoffs: Tensor) -> Tensor:
    """Return the cutoff factors of edges with these lengths, from 1 down to 0 at the cutoffs."""
    switch = _SWITCHES[backend.cutoff_function.lower()]
    factors: Tensor = switch(distances, cutoffs, backend.cutoff_width)
    return factors


def lengths(vectors: Tensor) -> Tensor:
    """Return the lengths of vectors [..., 3], with a finite derivative at zero."""
    found: Tensor = (vectors.square().sum(dim=-1) + SMALLEST).sqrt()
    return found


def _pair_cutoffs(backend: Any, batch: Batch, distances: Tensor, width: float) -> Tensor:
    """Return the mean of the adaptive cutoffs of both atoms of each pair, in Å."""
    i, j = batch.pairs
    per_atom: Tensor = _ADAPTIVE[backend.adaptive_cutoff_method.lower()](
        i,
        distances,
        backend.num_neighbors_adaptive,
        batch.n_atoms,
        backend.cutoff,
        cutoff_width=width,
    )
    return (per_atom.index_select(0, i) + per_atom.index_select(0, j)) / 2


def _arranged(centers: Tensor, n_atoms: int) -> tuple[Tensor, Tensor]:
    """Return the grid of tokens and the index of each token in it."""
    n_edges, device = len(centers), centers.device
    counts = torch.bincount(centers, minlength=n_atoms)
    width = 1 + int(counts.max())
    atoms = torch.arange(n_atoms, device=device)
    rank = torch.arange(n_edges, device=device) - (counts.cumsum(0) - counts)[centers]
    places = torch.cat([atoms * width, centers * width + 1 + rank])
    grid = atoms.repeat_interleave(width)
    grid[places] = torch.arange(n_atoms + n_edges, device=device)
    return grid.view(n_atoms, width), places


def _log_weights(factors: Tensor, grid: Tensor, places: Tensor) -> Tensor:
    n_atoms = len(grid)
    weights = torch.cat([factors.new_ones(n_atoms), factors])
    filled = factors.new_zeros(grid.numel()).index_copy(0, places, weights)
    return filled.clamp(min=SMALLEST).log().view(grid.shape)
