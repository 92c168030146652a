"""The edges that a PET sees: factors of the cutoff, the way back, and places in a padded grid."""

from dataclasses import dataclass
from typing import Any

import torch
from metatrain.pet.modules.adaptive_cutoff import (
    get_adaptive_cutoffs_grid,
    get_adaptive_cutoffs_solver,
)
from metatrain.pet.modules.utilities import cutoff_func_bump, cutoff_func_cosine
from torch import Tensor

from twinforce_models.batch import Batch

_SMALLEST = 1e-15
_ADAPTIVE = {"solver": get_adaptive_cutoffs_solver, "grid": get_adaptive_cutoffs_grid}
_SWITCHES = {"bump": cutoff_func_bump, "cosine": cutoff_func_cosine}


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """Directed edges of a batch, and tokens: one for each atom, then one for each edge.

    Attributes:
        centers: Shape [n_edges], non-decreasing.
        kinds: Which element each atom is, shape [n_atoms].
        neighbor_kinds: Which element the neighbor is, shape [n_edges].
        geometry: Vectors to the neighbor and its distance, shape [n_edges, 4], in Å.
        factors: From 1 to 0 at the cutoff, shape [n_edges].
        reverse: The edge from the neighbor to the centre, shape [n_edges].
        grid: Rows of tokens, shape [n_atoms, width]: each atom's own, its edges', its own again
            where it has fewer edges than others.
        places: Where each token is in the grid, flattened, shape [n_atoms + n_edges].
        log_weights: What attention adds to the score of each token of the grid, shape
            [n_atoms, width].
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

    @property
    def n_atoms(self) -> int:
        """How many atoms there are."""
        return len(self.kinds)


def find_edges(backend: Any, batch: Batch, adaptive_width: float) -> Edges:
    """Return the edges that a network sees in a batch, differentiable.

    Args:
        backend: metatrain's, for its cutoffs and elements.
        batch: With all pairs within the longest cutoff.
        adaptive_width: Over which an adaptive cutoff counts neighbors, in Å.
    """
    (centers, neighbors), shifts = batch.pairs, batch.shifts
    vectors = batch.displacements()
    distances = _lengths(vectors)
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
    switch = _SWITCHES[backend.cutoff_function.lower()]
    factors = switch(distances, cutoffs, backend.cutoff_width)
    kinds = backend.species_to_species_index.index_select(0, batch.atomic_numbers)
    grid, places = _arranged(centers, batch.n_atoms)
    return Edges(
        centers=centers,
        kinds=kinds,
        neighbor_kinds=kinds.index_select(0, neighbors),
        geometry=torch.cat([vectors, distances.unsqueeze(1)], dim=1),
        factors=factors,
        reverse=_reversed(centers, neighbors, shifts.round().to(torch.int64)),
        grid=grid,
        places=places,
        log_weights=_log_weights(factors, grid, places),
    )


def _lengths(vectors: Tensor) -> Tensor:
    lengths: Tensor = (vectors.square().sum(dim=1) + _SMALLEST).sqrt()
    return lengths


def _pair_cutoffs(backend: Any, batch: Batch, distances: Tensor, width: float) -> Tensor:
    """Return the mean of the cutoffs of both ends, each of which has about so many neighbors."""
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
    """Return the grid of tokens and their places in it."""
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
    return filled.clamp(min=_SMALLEST).log().view(grid.shape)


def _reversed(centers: Tensor, neighbors: Tensor, shifts: Tensor) -> Tensor:
    """Return for each edge the one that leads back: the n-th of both when sorted alike."""
    if not len(centers):
        return centers
    reach = int(shifts.abs().max())
    size, n_atoms = 2 * reach + 1, int(centers.max()) + 1

    def key(i: Tensor, j: Tensor, shift: Tensor) -> Tensor:
        x, y, z = (shift + reach).unbind(1)
        return (((i * n_atoms + j) * size + x) * size + y) * size + z

    reverse = torch.empty_like(centers)
    order = key(centers, neighbors, shifts).argsort()
    reverse[order] = key(neighbors, centers, -shifts).argsort()
    return reverse
