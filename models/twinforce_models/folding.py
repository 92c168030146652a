"""Any boundary conditions turned into the easiest ones to search: fully periodic, compact cells.

* Positions are folded into the cell along periodic directions and centred along open ones, so
  that coordinates far from the origin cost neither precision nor time.
* For the search, an open direction becomes a periodic one, orthogonal to the rest and too long
  for images to meet, so that mixed boundary conditions, molecules that carry a cell and systems
  without a cell need no code of their own.
* Empty stretches are shortened and strongly skewed cells replaced by an equivalent compact one,
  so that no input makes the search explode. (vesin 0.6.2 takes minutes, or divides by zero and
  kills the process, for two atoms far apart along an open direction.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinforce_proto import System

Floats = NDArray[np.float64]

_MAX_SKEW = 2.0
"""Product of the lengths of the cell vectors over the volume; fcc's primitive cell has 1.41."""

_MAX_EMPTY = 64
"""How many cubes as wide as the cutoff a system may span, next to eight per atom, as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Where the atoms of many systems are, on the host.

    Attributes:
        positions: Folded, shape [n_atoms, 3], in Å.
        cells: As the systems have them, shape [n_systems, 3, 3], in Å.
        pbc: Shape [n_systems, 3].
        folds: What folding took away, in whole lattice vectors, shape [n_atoms, 3]; zero along
            open directions.
        search_positions: Where a search should believe the atoms are, shape [n_atoms, 3], in Å.
        search_cells: Non-singular, shape [n_systems, 3, 3], in Å; periodic along all vectors.
        search_basis: Whole numbers, shape [n_systems, 3, 3]; shifts along `search_cells` times
            this are shifts along `cells`.
        n_atoms_per_system: One number per system.
    """

    positions: Floats
    cells: Floats
    pbc: NDArray[np.bool_]
    folds: Floats
    search_positions: Floats
    search_cells: Floats
    search_basis: Floats
    n_atoms_per_system: tuple[int, ...]

    def atoms(self, index: int) -> slice:
        """Return where the atoms of a system are."""
        start = sum(self.n_atoms_per_system[:index])
        return slice(start, start + self.n_atoms_per_system[index])


def fold(systems: Sequence[System], cutoff: float, *, is_compact: bool = True) -> Geometry:
    """Return the systems with their atoms close together, ready for a search within `cutoff` Å.

    Args:
        systems: At least one.
        cutoff: In Å.
        is_compact: Whether empty stretches are shortened and skewed cells replaced for the search,
            which costs time, and only a search on a grid needs.
    """
    n_atoms_per_system = tuple(len(system) for system in systems)
    owner = np.repeat(np.arange(len(systems)), n_atoms_per_system)
    positions = np.concatenate([system.positions for system in systems])
    cells = np.stack([system.cell for system in systems])
    pbc = np.stack([system.pbc for system in systems])

    complete = complete_cells(cells, pbc)
    fractional = _times(positions, inverted(complete)[owner])
    starts = np.cumsum((0, *n_atoms_per_system[:-1]))
    low, high = np.minimum.reduceat(fractional, starts), np.maximum.reduceat(fractional, starts)
    folds = np.where(pbc[owner], np.floor(fractional), 0.0)
    centre = np.where(pbc, 0.0, (low + high) / 2)
    folded = positions - _times(folds + centre[owner], complete[owner])

    search_cells = complete * np.where(pbc, 1.0, high - low + 2 * cutoff)[:, :, None]
    if is_compact:
        search = _compact(folded, search_cells, starts, cutoff)
    else:
        search = folded, search_cells, np.broadcast_to(np.eye(3), cells.shape)
    return Geometry(folded, cells, pbc, folds, *search, n_atoms_per_system)


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
    """Return the distances between opposite faces, shape [..., 3], of cells [..., 3, 3]."""
    distances: Floats = 1.0 / np.linalg.norm(inverted(cells), axis=-2)
    return distances


def inverted(cells: Floats) -> Floats:
    """Return the inverse of each cell, shape [..., 3, 3]: positions @ inverse are fractional."""
    return np.asarray(np.linalg.inv(cells), dtype=np.float64)


def _compact(
    positions: Floats, cells: Floats, starts: NDArray[np.int64], cutoff: float
) -> tuple[Floats, Floats, Floats]:
    """Return positions, cells and basis for a search, changed only for systems that need it."""
    basis = np.tile(np.eye(3), (len(cells), 1, 1))
    stops = np.append(starts[1:], len(positions))
    volumes = np.abs(np.linalg.det(cells))
    skewed = np.linalg.norm(cells, axis=2).prod(axis=1) > _MAX_SKEW * volumes
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
    """Return atoms and cell with every empty layer thicker than `max_gap` (Å) made that thick.

    Atoms on the two sides of such a layer do not see each other before or after, and atoms on
    one side move together, so neighbors and their shifts stay what they were.
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


def _times(vectors: Floats, matrices: Floats) -> Floats:
    product: Floats = np.einsum("ni,nij->nj", vectors, matrices)
    return product
