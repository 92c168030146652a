"""Which atoms see which: one full neighbor list for many systems at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import vesin
from numpy.typing import NDArray

from twinforce_models.folding import Floats, Geometry, face_distances, fold
from twinforce_proto import System

_MAX_GRID = 90_000
"""Search cells that vesin takes as asked for; beyond 1e5 it rounds their number, even to zero."""


@dataclass(frozen=True, slots=True, eq=False)
class NeighborList:
    """Every ordered pair of atoms closer than the cutoff, so that each is seen from both ends.

    Attributes:
        pairs: Centre i and neighbor j, shape [2, n_pairs], sorted by centre.
        shifts: Whole numbers, shape [n_pairs, 3]:
            displacement = positions[j] + shift @ cell - positions[i].
        n_pairs_per_system: One number per system.
    """

    pairs: NDArray[np.int64]
    shifts: Floats
    n_pairs_per_system: tuple[int, ...]


def neighbor_list(systems: Sequence[System], cutoff: float) -> NeighborList:
    """Return the neighbors of the atoms of `systems`, numbered through all of them.

    Args:
        systems: At least one.
        cutoff: In Å; pairs are strictly closer.

    Returns:
        Pairs and shifts that belong to the positions as given, folded or not.
    """
    geometry = fold(systems, cutoff)
    neighbors = search(geometry, cutoff)
    i, j = neighbors.pairs
    shifts = neighbors.shifts + geometry.folds[i] - geometry.folds[j]
    return NeighborList(neighbors.pairs, shifts, neighbors.n_pairs_per_system)


def search(geometry: Geometry, cutoff: float) -> NeighborList:
    """Return the neighbors that belong to the folded positions, found on the CPU by vesin."""
    pairs, shifts, start = [], [], 0
    for index, n_atoms in enumerate(geometry.n_atoms_per_system):
        positions = geometry.search_positions[start : start + n_atoms]
        found, shift = _search_one(positions, geometry.search_cells[index], cutoff)
        pairs.append(found.T + start)
        shifts.append(shift @ geometry.search_basis[index])
        start += n_atoms
    return NeighborList(
        pairs=np.concatenate(pairs, axis=1),
        shifts=np.concatenate(shifts),
        n_pairs_per_system=tuple(len(shift) for shift in shifts),
    )


def _search_one(
    positions: Floats, cell: Floats, cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    widths, radius = face_distances(cell), cutoff
    while np.maximum(widths // radius, 1).prod() > _MAX_GRID:
        radius *= 1.5
    finder = vesin.NeighborList(cutoff=radius, full_list=True, sorted=True, n_threads=1)
    pairs, shifts, distances = finder.compute(positions, cell, True, "PSd")
    if radius > cutoff:
        close = distances < cutoff
        pairs, shifts = pairs[close], shifts[close]
    return pairs.astype(np.int64), shifts
