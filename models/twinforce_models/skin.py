"""Neighbor lists of walkers, kept from step to step with a skin (Verlet, Phys. Rev. 159, 98, 1967).

A list with all pairs closer than cutoff + skin still holds all that are closer than the cutoff as
long as no atom has moved farther than half the skin. Until then a step only looks which of them
those are, so the result is that of a search, whatever the potential does at its cutoff. The cost of
looking is a third of that of a search.

Pairs come in an order that follows from the system alone, not from when the list was made: a sum
over them is the same to the last bit for a walker that has just come and for one that was here
all along, so that a simulation goes on from a restart as if it had never stopped.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinforce_models.folding import Floats, Geometry, complete_cells, inverted
from twinforce_models.neighbors import NeighborList, joined, search_system

Found = tuple[NDArray[np.int64], Floats]

# How many pairs take as much memory as what is kept of a walker that has none.
_PAIRS_PER_WALKER = 40
# What `_jumps` gives where no atom was folded otherwise than before.
_STAYED: Floats = np.zeros((0, 3))
_NO_PAIRS: Found = np.zeros((0, 2), np.int64), np.zeros((0, 3))


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """A list, and the folded system that it was made for.

    `centres` and `others` are the two columns of the pairs, `offsets` the shifts in Å.
    """

    cutoff: float
    positions: Floats
    cell: Floats
    pbc: NDArray[np.bool_]
    inverse_cell: Floats
    centres: NDArray[np.int64]
    others: NDArray[np.int64]
    shifts: Floats
    offsets: Floats

    @property
    def size(self) -> int:
        """How many pairs take as much memory as all that is kept."""
        return len(self.centres) + len(self.positions) + _PAIRS_PER_WALKER


class WalkerLists:
    """The neighbor lists of walkers; not safe to use from several threads at once.

    Args:
        skin: How much farther than the cutoff a search looks, in Å.
        max_size: Kept for all walkers together, in pairs of 64 bytes each; beyond, those that were
            not used for longest are forgotten.

    Attributes:
        skin: As given.
        n_searches: How many lists were made, and not only looked through.
    """

    def __init__(self, skin: float = 0.5, max_size: int = 4_000_000) -> None:
        self.skin = skin
        self.n_searches = 0
        self._max_size = max_size
        self._size = 0
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def search(
        self, geometry: Geometry, cutoff: float, walkers: Sequence[Hashable]
    ) -> NeighborList:
        """Return what `neighbors.search` does, a walker's pairs sorted by centre, neighbor, shift.

        Args:
            geometry: Folded for a search within cutoff + skin.
            cutoff: In Å.
            walkers: Whose each system is; None for a system that does not come back.
        """
        found = [
            self._neighbors(geometry, index, cutoff, walker) for index, walker in enumerate(walkers)
        ]
        return joined(found, geometry)

    def forget(self, walker: Hashable) -> None:
        """Keep nothing of a walker any more, if anything was kept."""
        if (kept := self._kept.pop(walker, None)) is not None:
            self._size -= kept.size

    def _neighbors(self, geometry: Geometry, index: int, cutoff: float, walker: Hashable) -> Found:
        if walker is None:
            self.n_searches += 1
            return search_system(geometry, index, cutoff)
        positions = geometry.positions[geometry.atoms(index)]
        kept = self._kept.get(walker)
        jumps = _STAYED if kept is None else self._jumps(kept, geometry, index, cutoff)
        if kept is None or jumps is None:
            return _near(self._searched(geometry, index, cutoff, walker), positions, _STAYED)
        self._kept.move_to_end(walker)
        return _near(kept, positions, jumps)

    def _jumps(self, kept: _Kept, geometry: Geometry, index: int, cutoff: float) -> Floats | None:
        """Return how many cells each atom was folded away; None if the list no longer holds."""
        positions = geometry.positions[geometry.atoms(index)]
        if (
            cutoff != kept.cutoff
            or len(positions) != len(kept.positions)
            or geometry.cells[index].tobytes() != kept.cell.tobytes()
            or geometry.pbc[index].tobytes() != kept.pbc.tobytes()
        ):
            return None
        moved = positions - kept.positions
        if self._is_near(moved):
            return _STAYED
        jumps: Floats = np.where(kept.pbc, np.rint(moved @ kept.inverse_cell), 0.0)
        return jumps if self._is_near(moved - jumps @ kept.cell) else None

    def _is_near(self, moved: Floats) -> bool:
        """Tell whether no atom has moved farther than half the skin."""
        farthest = np.maximum.reduce(np.einsum("ni,ni->n", moved, moved))
        return bool(4 * farthest <= self.skin**2)

    def _searched(self, geometry: Geometry, index: int, cutoff: float, walker: Hashable) -> _Kept:
        self.n_searches += 1
        pairs, shifts = _sorted(*search_system(geometry, index, cutoff + self.skin))
        # Copied, as a view would keep the whole batch.
        cell, pbc = geometry.cells[index].copy(), geometry.pbc[index].copy()
        kept = _Kept(
            cutoff,
            geometry.positions[geometry.atoms(index)].copy(),
            cell,
            pbc,
            inverted(complete_cells(cell[None], pbc[None]))[0],
            pairs[:, 0].copy(),
            pairs[:, 1].copy(),
            shifts,
            shifts @ cell,
        )
        self.forget(walker)
        self._kept[walker] = kept
        self._size += kept.size
        while self._size > self._max_size:
            self.forget(next(iter(self._kept)))
        return kept


def _sorted(pairs: NDArray[np.int64], shifts: Floats) -> Found:
    """Return pairs sorted by centre, neighbor and shift.

    Folding an atom away adds the same to all shifts between it and another one, which leaves
    their order alone.
    """
    order = np.lexsort((*shifts.T[::-1], pairs[:, 1], pairs[:, 0]))
    return pairs[order], shifts[order]


def _near(kept: _Kept, positions: Floats, jumps: Floats) -> Found:
    """Return the pairs that are closer than the cutoff now, and their shifts."""
    i, j, shifts, offsets = kept.centres, kept.others, kept.shifts, kept.offsets
    if not len(i):
        return _NO_PAIRS
    if jumps is not _STAYED and jumps.any():
        shifts = shifts + jumps[i] - jumps[j]
        offsets = shifts @ kept.cell
    vectors = positions.take(j, axis=0)
    vectors -= positions.take(i, axis=0)
    vectors += offsets
    squared = np.einsum("ni,ni->n", vectors, vectors)
    near = np.flatnonzero(squared < kept.cutoff**2)
    return np.stack([i.take(near), j.take(near)], axis=1), shifts.take(near, axis=0)
