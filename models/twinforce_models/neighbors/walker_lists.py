"""Neighbor lists of walkers, reused between steps with a skin (Verlet, Phys. Rev. 159, 98, 1967).

A list of all pairs closer than cutoff + skin contains all pairs closer than the cutoff as long as
no atom has moved farther than half the skin. Until then, a step only filters the list by distance,
so the result equals that of a search, whatever the potential does at its cutoff. Filtering costs a
third of a search.

The order of the pairs depends on the system alone and not on when the list was made. A sum over
pairs is therefore bitwise equal for a new walker and for one with a kept list, and a restarted
simulation continues as if it had never stopped.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinforce_models.neighbors.folding import Floats, Geometry, complete_cells, inverted
from twinforce_models.neighbors.search import NeighborList, joined, search_system

Found = tuple[NDArray[np.int64], Floats]

# Number of pairs that take as much memory as the entry of a walker without pairs.
_PAIRS_PER_WALKER = 40
# Number of pairs up to which the lists of several walkers are filtered together.
_MAX_PAIRS_TOGETHER = 50_000
_MAX_KEY = 2**63 - 1
# Seconds after which a list that was not used is dropped.
_LONGEST_IDLE = 300.0
_NO_PAIRS: Found = np.zeros((0, 2), np.int64), np.zeros((0, 3))


@dataclass(frozen=True, slots=True, eq=False)
class _List:
    """Centers and neighbors of the pairs of one system, their shifts, and the shifts in Å."""

    centers: NDArray[np.int64]
    others: NDArray[np.int64]
    shifts: Floats
    offsets: Floats


@dataclass(slots=True, eq=False)
class _Kept:
    """A list, the folded system that it was made for, and when it was last used."""

    cutoff: float
    positions: Floats
    cell: Floats
    pbc: NDArray[np.bool_]
    inverse_cell: Floats
    list: _List
    used_at: float

    @property
    def size(self) -> int:
        """Number of pairs that would take as much memory as this entry."""
        return len(self.list.centers) + len(self.positions) + _PAIRS_PER_WALKER


class WalkerLists:
    """The neighbor lists of walkers; not thread-safe.

    Args:
        skin: Distance beyond the cutoff that a search covers, in Å.
        max_size: Memory limit for all walkers together, in pairs of 64 bytes each. Beyond it, the
            least recently used lists are dropped.
        clock: Time in s. Lists that were not used for minutes are dropped, as the walker may have
            ended.

    Attributes:
        skin: Distance beyond the cutoff, in Å.
        n_searches: Number of lists made by a search rather than filtered.
    """

    def __init__(
        self,
        skin: float = 0.5,
        max_size: int = 4_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._now = clock()
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
        """Return the result of `neighbors.search`, with pairs sorted by center, neighbor and shift.

        Args:
            geometry: Folded for a search within cutoff + skin.
            cutoff: In Å.
            walkers: The walker of each system; None for a system without one.
        """
        self._now = self._clock()
        if len(walkers) > 1 and all(walkers):
            lists = self._lists(geometry, cutoff, walkers)
            if sum([len(each.centers) for each in lists]) <= _MAX_PAIRS_TOGETHER:
                return _near_together(lists, geometry, cutoff)
        found = [
            self._neighbors(geometry, index, cutoff, walker) for index, walker in enumerate(walkers)
        ]
        return joined(found, geometry)

    def forget(self, walker: Hashable) -> None:
        """Drop the list of a walker, if there is one."""
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
        """Return the lists of several walkers, checking displacements of all of them at once."""
        kept = [
            self._made_for(geometry, index, cutoff, walker) for index, walker in enumerate(walkers)
        ]
        starts = np.cumsum((0, *geometry.n_atoms_per_system[:-1]))
        references = [
            geometry.positions[geometry.atoms(index)] if each is None else each.positions
            for index, each in enumerate(kept)
        ]
        moved = geometry.positions - np.concatenate(references)
        farthest = np.maximum.reduceat(np.einsum("ni,ni->n", moved, moved), starts)
        within_skin = (4 * farthest <= self.skin**2).tolist()
        return [
            each.list
            if each is not None and is_within_skin
            else self._valid(each, geometry, index, cutoff, walker)
            for index, (each, is_within_skin, walker) in enumerate(
                zip(kept, within_skin, walkers, strict=True)
            )
        ]

    def _made_for(
        self, geometry: Geometry, index: int, cutoff: float, walker: Hashable
    ) -> _Kept | None:
        """Return the kept list of a walker if cell, cutoff and number of atoms are unchanged."""
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
        kept.used_at = self._now
        return kept

    def _valid(
        self, kept: _Kept | None, geometry: Geometry, index: int, cutoff: float, walker: Hashable
    ) -> _List:
        """Return the list of a walker: unchanged, with updated shifts, or from a new search."""
        if kept is None:
            return self._searched(geometry, index, cutoff, walker).list
        moved = geometry.positions[geometry.atoms(index)] - kept.positions
        if self._is_near(moved):
            return kept.list
        # Number of cells by which folding has moved each atom since.
        jumps: Floats = np.where(kept.pbc, np.rint(moved @ kept.inverse_cell), 0.0)
        if not self._is_near(moved - jumps @ kept.cell):
            return self._searched(geometry, index, cutoff, walker).list
        i, j = kept.list.centers, kept.list.others
        shifts = kept.list.shifts + jumps[i] - jumps[j]
        return _List(i, j, shifts, shifts @ kept.cell)

    def _is_near(self, moved: Floats) -> bool:
        """Return True if no atom has moved farther than half the skin."""
        farthest = np.maximum.reduce(np.einsum("ni,ni->n", moved, moved))
        return bool(4 * farthest <= self.skin**2)

    def _searched(self, geometry: Geometry, index: int, cutoff: float, walker: Hashable) -> _Kept:
        self.n_searches += 1
        pairs, shifts = _sorted(*search_system(geometry, index, cutoff + self.skin))
        # Copied, because a view would keep the whole batch alive.
        cell, pbc = geometry.cells[index].copy(), geometry.pbc[index].copy()
        kept = _Kept(
            cutoff,
            geometry.positions[geometry.atoms(index)].copy(),
            cell,
            pbc,
            inverted(complete_cells(cell[None], pbc[None]))[0],
            _List(pairs[:, 0].copy(), pairs[:, 1].copy(), shifts, shifts @ cell),
            self._now,
        )
        self.forget(walker)
        self._kept[walker] = kept
        self._size += kept.size
        self._drop_oldest()
        return kept

    def _drop_oldest(self) -> None:
        """Drop lists beyond the memory limit, and those that were not used for long."""
        earliest = self._now - _LONGEST_IDLE
        while self._kept:
            walker, oldest = next(iter(self._kept.items()))
            if self._size <= self._max_size and oldest.used_at >= earliest:
                return
            self.forget(walker)


def _sorted(pairs: NDArray[np.int64], shifts: Floats) -> Found:
    """Return pairs sorted by center, neighbor and shift.

    Folding an atom into the cell adds the same shift to all of its pairs with another atom, which
    preserves their order.
    """
    order = _order(pairs, shifts)
    return pairs.take(order, axis=0), shifts.take(order, axis=0)


def _order(pairs: NDArray[np.int64], shifts: Floats) -> NDArray[np.int64]:
    """Return the sorting order, from one integer key per pair where it fits: this is far faster."""
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
    i, j = listed.centers, listed.others
    if not len(i):
        return _NO_PAIRS
    near = _near_indices(i, j, listed.offsets, positions, cutoff)
    return np.stack([i.take(near), j.take(near)], axis=1), listed.shifts.take(near, axis=0)


def _near_together(lists: Sequence[_List], geometry: Geometry, cutoff: float) -> NeighborList:
    """Return the near pairs of several systems at once; for small ones, calls dominate the cost."""
    n_pairs = [len(each.centers) for each in lists]
    start = np.repeat(np.cumsum((0, *geometry.n_atoms_per_system[:-1])), n_pairs)
    i = np.concatenate([each.centers for each in lists]) + start
    j = np.concatenate([each.others for each in lists]) + start
    offsets = np.concatenate([each.offsets for each in lists])
    near = _near_indices(i, j, offsets, geometry.positions, cutoff)
    shifts = np.concatenate([each.shifts for each in lists]).take(near, axis=0)
    bounds = near.searchsorted(np.cumsum((0, *n_pairs)))
    pairs = np.stack([i.take(near), j.take(near)])
    return NeighborList(pairs, shifts, tuple(np.diff(bounds).tolist()))


def _near_indices(
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    offsets: Floats,
    positions: Floats,
    cutoff: float,
) -> NDArray[np.int64]:
    """Return the indices of pairs that are closer than the cutoff."""
    vectors = positions.take(j, axis=0)
    vectors -= positions.take(i, axis=0)
    vectors += offsets
    squared = np.einsum("ni,ni->n", vectors, vectors)
    return np.flatnonzero(squared < cutoff**2)
