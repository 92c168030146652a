"""Neighbor lists of walkers, kept from step to step with a skin (Verlet, Phys. Rev. 159, 98, 1967).

A list with all pairs closer than cutoff + skin still holds all that are closer than the cutoff as
long as no atom has moved farther than half the skin. Until then a step only looks which of them
those are, so the result is that of a search, whatever the potential does at its cutoff. The cost of
looking is a third of that of a search.

Pairs come in an order that follows from the system alone, not from when the list was made: a sum
over them is the same to the last bit for a walker that has just come and for one that was here
all along, so that a simulation goes on from a restart as if it had never stopped.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinforce_models.neighbors.folding import Floats, Geometry, complete_cells, inverted
from twinforce_models.neighbors.search import NeighborList, joined, search_system

Found = tuple[NDArray[np.int64], Floats]

# How many pairs take as much memory as what is kept of a walker that has none.
_PAIRS_PER_WALKER = 40
# Up to so many pairs, the lists of several walkers are looked through as one.
_MAX_TOGETHER = 50_000
_MAX_KEY = 2**63 - 1
_NO_PAIRS: Found = np.zeros((0, 2), np.int64), np.zeros((0, 3))


@dataclass(frozen=True, slots=True, eq=False)
class _List:
    """The two columns of the pairs of one system, their shifts, and those in Å."""

    centres: NDArray[np.int64]
    others: NDArray[np.int64]
    shifts: Floats
    offsets: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """A list, and the folded system that it was made for."""

    cutoff: float
    positions: Floats
    cell: Floats
    pbc: NDArray[np.bool_]
    inverse_cell: Floats
    list: _List

    @property
    def size(self) -> int:
        """How many pairs take as much memory as all that is kept."""
        return len(self.list.centres) + len(self.positions) + _PAIRS_PER_WALKER


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
        if len(walkers) > 1 and all(walkers):
            lists = self._lists(geometry, cutoff, walkers)
            if sum([len(each.centres) for each in lists]) <= _MAX_TOGETHER:
                return _near_together(lists, geometry, cutoff)
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
        kept = self._made_for(geometry, index, cutoff, walker)
        return _near(self._valid(kept, geometry, index, cutoff, walker), positions, cutoff)

    def _lists(self, geometry: Geometry, cutoff: float, walkers: Sequence[Hashable]) -> list[_List]:
        """Return the lists of several walkers; whether they hold is asked of all at once."""
        kept = [
            self._made_for(geometry, index, cutoff, walker) for index, walker in enumerate(walkers)
        ]
        starts = np.cumsum((0, *geometry.n_atoms_per_system[:-1]))
        before = [
            geometry.positions[geometry.atoms(index)] if each is None else each.positions
            for index, each in enumerate(kept)
        ]
        moved = geometry.positions - np.concatenate(before)
        farthest = np.maximum.reduceat(np.einsum("ni,ni->n", moved, moved), starts)
        have_stayed = (4 * farthest <= self.skin**2).tolist()
        return [
            each.list
            if each is not None and has_stayed
            else self._valid(each, geometry, index, cutoff, walker)
            for index, (each, has_stayed, walker) in enumerate(
                zip(kept, have_stayed, walkers, strict=True)
            )
        ]

    def _made_for(
        self, geometry: Geometry, index: int, cutoff: float, walker: Hashable
    ) -> _Kept | None:
        """Return what is kept of a walker if it still has this cell and as many atoms."""
        kept = self._kept.get(walker)
        if (
            kept is None
            or cutoff != kept.cutoff
            or geometry.n_atoms_per_system[index] != len(kept.positions)
            or geometry.cells[index].tobytes() != kept.cell.tobytes()
            or geometry.pbc[index].tobytes() != kept.pbc.tobytes()
        ):
            return None
        self._kept.move_to_end(walker)
        return kept

    def _valid(
        self, kept: _Kept | None, geometry: Geometry, index: int, cutoff: float, walker: Hashable
    ) -> _List:
        """Return the list of a walker, as it is, with other shifts, or made anew."""
        if kept is None:
            return self._searched(geometry, index, cutoff, walker).list
        moved = geometry.positions[geometry.atoms(index)] - kept.positions
        if self._is_near(moved):
            return kept.list
        # How many cells each atom was folded away since.
        jumps: Floats = np.where(kept.pbc, np.rint(moved @ kept.inverse_cell), 0.0)
        if not self._is_near(moved - jumps @ kept.cell):
            return self._searched(geometry, index, cutoff, walker).list
        i, j = kept.list.centres, kept.list.others
        shifts = kept.list.shifts + jumps[i] - jumps[j]
        return _List(i, j, shifts, shifts @ kept.cell)

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
            _List(pairs[:, 0].copy(), pairs[:, 1].copy(), shifts, shifts @ cell),
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
    order = _order(pairs, shifts)
    return pairs.take(order, axis=0), shifts.take(order, axis=0)


def _order(pairs: NDArray[np.int64], shifts: Floats) -> NDArray[np.int64]:
    """Return their order: by one number for each, where that is enough, as it is far faster."""
    columns = (*pairs.T, *shifts.astype(np.int64).T)
    lows = [int(column.min(initial=0)) for column in columns]
    spans = [
        int(column.max(initial=0)) - low + 1 for column, low in zip(columns, lows, strict=True)
    ]
    if math.prod(spans) > _MAX_KEY:
        return np.lexsort(columns[::-1])
    keys = np.zeros(len(pairs), np.int64)
    for column, low, span in zip(columns, lows, spans, strict=True):
        keys *= span
        keys += column
        keys -= low
    return np.argsort(keys, kind="stable")


def _near(listed: _List, positions: Floats, cutoff: float) -> Found:
    """Return the pairs that are closer than the cutoff now, and their shifts."""
    i, j = listed.centres, listed.others
    if not len(i):
        return _NO_PAIRS
    near = _places_near(i, j, listed.offsets, positions, cutoff)
    return np.stack([i.take(near), j.take(near)], axis=1), listed.shifts.take(near, axis=0)


def _near_together(lists: Sequence[_List], geometry: Geometry, cutoff: float) -> NeighborList:
    """Return the same of several systems, in few operations: for small ones, these cost most."""
    n_pairs = [len(each.centres) for each in lists]
    start = np.repeat(np.cumsum((0, *geometry.n_atoms_per_system[:-1])), n_pairs)
    i = np.concatenate([each.centres for each in lists]) + start
    j = np.concatenate([each.others for each in lists]) + start
    offsets = np.concatenate([each.offsets for each in lists])
    near = _places_near(i, j, offsets, geometry.positions, cutoff)
    shifts = np.concatenate([each.shifts for each in lists]).take(near, axis=0)
    bounds = near.searchsorted(np.cumsum((0, *n_pairs)))
    pairs = np.stack([i.take(near), j.take(near)])
    return NeighborList(pairs, shifts, tuple(np.diff(bounds).tolist()))


def _places_near(
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    offsets: Floats,
    positions: Floats,
    cutoff: float,
) -> NDArray[np.int64]:
    """Return which pairs are closer than the cutoff."""
    vectors = positions.take(j, axis=0)
    vectors -= positions.take(i, axis=0)
    vectors += offsets
    squared = np.einsum("ni,ni->n", vectors, vectors)
    return np.flatnonzero(squared < cutoff**2)
