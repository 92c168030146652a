"""Conversion of any boundary conditions into fully periodic, compact cells, for a search.

* Positions are folded into the cell along periodic directions and centered along open ones, so
  that coordinates far from the origin cost neither precision nor time.
* For the search, an open direction becomes a periodic one, orthogonal to the rest and long enough
  to keep images apart. Mixed boundary conditions, molecules with a cell and systems without a
  cell therefore need no separate code.
* Empty regions are shortened and strongly skewed cells are replaced by an equivalent compact one,
  so that the cost of a search stays bounded for any input. (vesin 0.6.2 takes minutes, or divides
  by zero and kills the process, for two atoms far apart along an open direction.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinforce_proto import System

Floats = NDArray[np.float64]

MAX_SKEW = 2.0
"""Product of the lengths of the cell vectors over the volume; fcc's primitive cell has 1.41."""

_MAX_EMPTY = 64
"""Cubes as wide as the cutoff that a system may span, in addition to eight per atom, unchanged."""

_FEW_ATOMS = 32
"""Atoms per system, on average, up to which processing all systems together is faster."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """The atoms of many systems on the host, ready for a neighbor search.

    The `search_*` properties are computed on first access, since most steps of a walker do not need
    them.

    Attributes:
        positions: Folded positions, shape [n_atoms, 3], in Å.
        cells: The unchanged cells of the systems, shape [n_systems, 3, 3], in Å.
        pbc: Shape [n_systems, 3].
        folds: Whole lattice vectors that folding subtracted, shape [n_atoms, 3]; zero along open
            directions.
        periods: Non-singular cells that a search may treat as periodic along all vectors, shape
            [n_systems, 3, 3], in Å.
        cutoff: Cutoff of the search, in Å.
        n_atoms_per_system: Number of atoms of each system.
    """

    positions: Floats
    cells: Floats
    pbc: NDArray[np.bool_]
    folds: Floats
    periods: Floats
    cutoff: float
    n_atoms_per_system: tuple[int, ...]

    def atoms(self, index: int) -> slice:
        """Return the slice of atoms that belong to a system."""
        start = sum(self.n_atoms_per_system[:index])
        return slice(start, start + self.n_atoms_per_system[index])

    @property
    def search_positions(self) -> Floats:
        """Positions to search with, shape [n_atoms, 3], in Å."""
        return self._search[0]

    @property
    def search_cells(self) -> Floats:
        """Compact cells, periodic along all vectors; shape [n_systems, 3, 3], in Å."""
        return self._search[1]

    @property
    def search_basis(self) -> Floats:
        """Whole numbers, shape [n_systems, 3, 3].

        Shifts along `search_cells` times this matrix are shifts along `cells`.
        """
        return self._search[2]

    @cached_property
    def _search(self) -> tuple[Floats, Floats, Floats]:
        starts = np.cumsum((0, *self.n_atoms_per_system[:-1]))
        return _compact(self.positions, self.periods, starts, self.cutoff)


def fold(systems: Sequence[System], cutoff: float) -> Geometry:
    """Return the systems with their atoms folded, ready for a search within `cutoff` Å."""
    if len(systems) == 1 and systems[0].pbc.all():
        return _folded_alone(systems[0], cutoff)
    n_atoms_per_system = tuple(len(system) for system in systems)
    owner = np.repeat(np.arange(len(systems)), n_atoms_per_system)
    slices = _split(n_atoms_per_system)
    positions = np.concatenate([system.positions for system in systems])
    cells = _stacked([system.cell for system in systems])
    pbc = _stacked([system.pbc for system in systems])
    frames = [_frame(system.cell.tobytes(), system.pbc.tobytes()) for system in systems]
    complete, inverse = (_stacked(each) for each in zip(*frames, strict=True))

    fractional = _times_each(positions, inverse, owner, slices)
    folds = np.floor(fractional)
    subtracted, periods = folds, complete
    if not pbc.all():
        starts = np.cumsum((0, *n_atoms_per_system[:-1]))
        low, high = np.minimum.reduceat(fractional, starts), np.maximum.reduceat(fractional, starts)
        folds = np.where(pbc[owner], folds, 0.0)
        subtracted = folds + np.where(pbc, 0.0, (low + high) / 2)[owner]
        periods = complete * np.where(pbc, 1.0, high - low + 2 * cutoff)[:, :, None]
    folded = positions - _times_each(subtracted, complete, owner, slices)
    return Geometry(folded, cells, pbc, folds, periods, cutoff, n_atoms_per_system)


def _folded_alone(system: System, cutoff: float) -> Geometry:
    """Return the geometry of a single, fully periodic system: the most frequent case of walkers."""
    _, inverse = _frame(system.cell.tobytes(), system.pbc.tobytes())
    folds = np.floor(system.positions @ inverse)
    positions, cells = system.positions, system.cell[None]
    if folds.any():
        positions = positions - _times(folds, system.cell)
    return Geometry(positions, cells, system.pbc[None], folds, cells, cutoff, (len(system),))


@lru_cache(maxsize=4096)
def _frame(cell: bytes, pbc: bytes) -> tuple[Floats, Floats]:
    """Return a completed cell and its inverse; both of shape [3, 3].

    Cached, because walkers keep their cell and numpy is slow on small matrices.
    """
    cells = np.frombuffer(cell).reshape(1, 3, 3)
    complete = complete_cells(cells, np.frombuffer(pbc, np.bool_)[None])
    return complete[0], inverted(complete)[0]


def complete_cells(cells: Floats, pbc: NDArray[np.bool_]) -> Floats:
    """Return `cells` with unit vectors, orthogonal to all others, along open directions.

    Args:
        cells: Shape [n_systems, 3, 3], in Å.
        pbc: Shape [n_systems, 3].
    """
    if pbc.all():
        return cells
    complete = np.where(pbc[:, :, None], cells, np.eye(3))
    for index in np.flatnonzero(pbc.any(axis=1) & ~pbc.all(axis=1)):
        periodic = pbc[index]
        _, _, directions = np.linalg.svd(cells[index][periodic])
        complete[index][~periodic] = directions[periodic.sum() :]
    return complete


def reduced_basis(cell: Floats) -> Floats:
    """Return whole numbers B, shape [3, 3], |det B| = 1, such that B @ cell is short and compact.

    The two shortest vectors are Gauss-reduced; the third loses its projection on their plane
    up to half a vector (Semaev, A 3-dimensional lattice reduction algorithm, CaLC 2001).
    """
    basis = np.eye(3)
    for _ in range(200):
        basis = basis[np.argsort(np.linalg.norm(basis @ cell, axis=1), kind="stable")]
        first, second, third = basis @ cell
        if multiple := np.rint(first @ second / (first @ first)):
            basis[1] -= multiple * basis[0]
            continue
        plane = np.stack([first, second])
        multiples = np.rint(np.linalg.solve(plane @ plane.T, plane @ third))
        if not multiples.any():
            break
        basis[2] -= multiples @ basis[:2]
    return basis


def face_distances(cells: Floats) -> Floats:
    """Return the distances between opposite faces of cells [..., 3, 3], shape [..., 3]."""
    distances: Floats = 1.0 / np.linalg.norm(inverted(cells), axis=-2)
    return distances


def inverted(cells: Floats) -> Floats:
    """Return the inverse of each cell, shape [..., 3, 3]; positions @ inverse are fractional."""
    return np.asarray(np.linalg.inv(cells), dtype=np.float64)


def _compact(
    positions: Floats, cells: Floats, starts: NDArray[np.int64], cutoff: float
) -> tuple[Floats, Floats, Floats]:
    """Return positions, cells and basis for a search, changed only for systems that require it."""
    basis = np.tile(np.eye(3), (len(cells), 1, 1))
    stops = np.append(starts[1:], len(positions))
    volumes = np.abs(np.linalg.det(cells))
    skewed = np.linalg.norm(cells, axis=2).prod(axis=1) > MAX_SKEW * volumes
    empty = volumes > (_MAX_EMPTY + 8 * (stops - starts)) * cutoff**3
    if not (skewed.any() or empty.any()):
        return positions, cells, basis
    positions, cells = positions.copy(), cells.copy()
    for index in np.flatnonzero(skewed):
        basis[index] = reduced_basis(cells[index])
        cells[index] = basis[index] @ cells[index]
    for index in np.flatnonzero(empty):
        atoms = slice(starts[index], stops[index])
        positions[atoms], cells[index] = _without_gaps(positions[atoms], cells[index], 2 * cutoff)
    return positions, cells, basis


def _without_gaps(positions: Floats, cell: Floats, max_gap: float) -> tuple[Floats, Floats]:
    """Return atoms and cell with every empty layer thicker than `max_gap` (Å) reduced to it.

    Atoms on the two sides of such a layer are not neighbors before or after, and atoms on one side
    move together, so neighbors and their shifts stay the same.
    """
    fractional = positions @ inverted(cell)
    whole, part = np.floor(fractional), fractional - np.floor(fractional)
    scale = np.ones(3)
    for axis, width in enumerate(face_distances(cell)):
        order = np.argsort(part[:, axis], kind="stable")
        gaps = np.diff(part[order, axis], append=part[order[0], axis] + 1.0)
        excess = np.maximum(gaps - max_gap / width, 0.0)
        part[order[1:], axis] -= np.cumsum(excess)[:-1]
        scale[axis] = 1.0 - excess.sum()
    return (part + whole * scale) @ cell, cell * scale[:, None]


def _stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return arrays of one shape as one, in a fraction of the time that numpy's stack takes."""
    return np.concatenate(arrays).reshape(len(arrays), *arrays[0].shape)


def _split(n_atoms_per_system: Sequence[int]) -> list[slice]:
    """Return the slices of atoms of each system; empty if systems are small on average."""
    stops = np.cumsum(n_atoms_per_system).tolist()
    if stops[-1] < _FEW_ATOMS * len(stops):
        return []
    return [slice(stop - n, stop) for n, stop in zip(n_atoms_per_system, stops, strict=True)]


def _times_each(
    vectors: Floats, matrices: Floats, owner: NDArray[np.int64], slices: Sequence[slice]
) -> Floats:
    """Return each vector times the matrix of its system; per system if `slices` are given."""
    if not slices:
        return _times(vectors, matrices[owner])
    product = np.empty_like(vectors)
    for atoms, matrix in zip(slices, matrices, strict=True):
        np.matmul(vectors[atoms], matrix, out=product[atoms])
    return product


def _times(vectors: Floats, matrices: Floats) -> Floats:
    """Return rows times matrices, one per row or one for all, with bitwise equal results."""
    x, y, z = vectors[:, 0, None], vectors[:, 1, None], vectors[:, 2, None]
    product: Floats = x * matrices[..., 0, :] + y * matrices[..., 1, :] + z * matrices[..., 2, :]
    return product
