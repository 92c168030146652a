"""Full neighbor lists of many systems at once.

On the CPU, vesin searches one system after another; on a GPU, nvalchemi-toolkit-ops searches all of
them at once, where it is installed. Both receive the systems as `fold` returns them.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import vesin
from numpy.typing import NDArray
from torch import Tensor

from twinforce_models.neighbors.folding import Floats, Geometry, face_distances, fold
from twinforce_proto import System

_MAX_GRID = 90_000
"""Grid cells up to which vesin keeps the requested grid; beyond 1e5 it rounds, even to zero."""

_MAX_ATOMS_NAIVE = 1024
"""Atoms per system up to which a GPU compares all pairs; for larger systems it sorts atoms."""


@dataclass(frozen=True, slots=True, eq=False)
class NeighborList:
    """All ordered pairs of atoms closer than the cutoff; each pair appears from both ends.

    Attributes:
        pairs: Center i and neighbor j, shape [2, n_pairs], sorted by center.
        shifts: Whole numbers, shape [n_pairs, 3]:
            displacement = positions[j] + shift @ cell - positions[i].
        n_pairs_per_system: Number of pairs of each system.
    """

    pairs: NDArray[np.int64]
    shifts: Floats
    n_pairs_per_system: tuple[int, ...]


def neighbor_list(systems: Sequence[System], cutoff: float) -> NeighborList:
    """Return the neighbors of the atoms of `systems`, numbered across all systems.

    Args:
        systems: At least one system.
        cutoff: In Å; the distance of a pair is strictly smaller.

    Returns:
        Pairs and shifts that belong to the original positions, folded or not.
    """
    geometry = fold(systems, cutoff)
    neighbors = search(geometry, cutoff)
    i, j = neighbors.pairs
    shifts = neighbors.shifts + geometry.folds[i] - geometry.folds[j]
    return NeighborList(neighbors.pairs, shifts, neighbors.n_pairs_per_system)


def search(geometry: Geometry, cutoff: float) -> NeighborList:
    """Return the neighbors that belong to the folded positions, found on the CPU."""
    found = [search_system(geometry, index, cutoff) for index in range(len(geometry.cells))]
    return joined(found, geometry)


def search_system(
    geometry: Geometry, index: int, cutoff: float
) -> tuple[NDArray[np.int64], Floats]:
    """Return pairs [n_pairs, 2] and shifts [n_pairs, 3] of one system, numbered within it."""
    positions, cell = geometry.search_positions[geometry.atoms(index)], geometry.search_cells[index]
    if np.maximum(face_distances(cell) // cutoff, 1).prod() > _MAX_GRID:
        pairs, shifts = _search_on_coarse_grid(positions, cell, cutoff)
    else:
        pairs, shifts = _finder(cutoff).compute(positions, cell, True, "PS")
    return pairs.astype(np.int64), shifts @ geometry.search_basis[index]


def joined(found: Sequence[tuple[NDArray[np.int64], Floats]], geometry: Geometry) -> NeighborList:
    """Return the pairs and shifts of each system as one list, numbered across all systems."""
    if len(found) == 1:
        ((pairs, shifts),) = found
        return NeighborList(pairs.T.copy(), shifts, (len(shifts),))
    starts = np.cumsum((0, *geometry.n_atoms_per_system[:-1]))
    numbered = [pairs + start for (pairs, _), start in zip(found, starts, strict=True)]
    return NeighborList(
        pairs=np.concatenate(numbered).T.copy(),
        shifts=np.concatenate([shifts for _, shifts in found]),
        n_pairs_per_system=tuple(len(shifts) for _, shifts in found),
    )


def can_search_on(device: torch.device) -> bool:
    """Return True if `search_on_device` supports the device."""
    return device.type == "cuda" and _has_nvalchemi()


def search_on_device(
    positions: Tensor,
    cells: Tensor,
    basis: Tensor,
    n_atoms_per_system: Sequence[int],
    cutoff: float,
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Return pairs, shifts and pairs per system, found on the device of the tensors.

    Args:
        positions: `Geometry.search_positions`.
        cells: `Geometry.search_cells`.
        basis: `Geometry.search_basis`.
        n_atoms_per_system: Number of atoms of each system, on the host.
        cutoff: In Å.
    """
    counts = torch.tensor([0, *n_atoms_per_system], dtype=torch.int32)
    starts = counts.cumsum(0, dtype=torch.int32).to(positions.device, non_blocking=True)
    is_small = max(n_atoms_per_system) <= _MAX_ATOMS_NAIVE
    pairs, row_starts, shifts = _nvalchemi_list(
        positions,
        cutoff,
        cell=cells,
        pbc=torch.ones(len(cells), 3, dtype=torch.bool, device=positions.device),
        batch_ptr=starts,
        method="batch_naive" if is_small else "batch_cell_list",
        **({"max_atoms_per_system": max(n_atoms_per_system)} if is_small else {}),
    )
    pairs = pairs.long()
    n_pairs = row_starts.index_select(0, starts.long()).diff()
    owner = torch.repeat_interleave(n_pairs.long(), output_size=pairs.shape[1])
    cell_shifts = (shifts.to(positions.dtype).unsqueeze(-1) * basis.index_select(0, owner)).sum(
        dim=1
    )
    return pairs, cell_shifts, tuple(n_pairs.tolist())


@cache
def _has_nvalchemi() -> bool:
    return importlib.util.find_spec("nvalchemiops") is not None


def _finder(radius: float) -> vesin.NeighborList:
    return vesin.NeighborList(cutoff=radius, full_list=True, sorted=True, n_threads=1)


def _search_on_coarse_grid(
    positions: Floats, cell: Floats, cutoff: float
) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Return the neighbors in a cell with too many grid points, found on a coarser grid."""
    widths, radius = face_distances(cell), cutoff
    while np.maximum(widths // radius, 1).prod() > _MAX_GRID:
        radius *= 1.5
    pairs, shifts, distances = _finder(radius).compute(positions, cell, True, "PSd")
    close = distances < cutoff
    return pairs[close], shifts[close]


def _nvalchemi_list(positions: Tensor, cutoff: float, **options: Any) -> tuple[Tensor, ...]:
    """Return nvalchemi's list; retry with more columns if an atom has more neighbors than fit."""
    importlib.import_module("warp").config.quiet = True
    nvalchemi = importlib.import_module("nvalchemiops.torch.neighbors")
    while True:
        try:
            found: tuple[Tensor, ...] = nvalchemi.neighbor_list(
                positions, cutoff, return_neighbor_list=True, **options
            )
        except nvalchemi.NeighborOverflowError as error:
            options["max_neighbors"] = error.num_neighbors
        else:
            return found
