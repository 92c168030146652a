"""Estimation of the number of neighbor pairs of a system without a neighbor search."""

import math

import numpy as np

from twinforce_models.neighbors.folding import MAX_SKEW, Floats, fold
from twinforce_proto import System


def estimate_pairs(system: System, cutoff: float) -> int:
    """Return the approximate number of neighbor pairs of a system, from the density of its atoms.

    The system is divided into equal bins, each at least as wide as the cutoff where the system is
    large enough. An atom has c/V · 4π/3 · cutoff³ neighbors, c -> atoms in its bin, V -> volume of
    a bin. So neither empty space nor one distant atom hides a dense region, and images count.

    Args:
        system: The system; not modified.
        cutoff: Cutoff of the neighbor list, in Å.

    Returns:
        Number of pairs of the full list, each counted in both directions.
    """
    positions, cell = _enclosed(system, cutoff)
    volume, inverse, distances = _measured(cell)
    n_bins = np.array([max(distance // cutoff, 1.0) for distance in distances])
    # Open directions are centered on the origin; + 0.5 puts the origin into the middle of a bin.
    bins = np.floor(positions @ (inverse * n_bins) + 0.5) % n_bins
    sphere_in_bins = 4 / 3 * math.pi * cutoff**3 * float(n_bins.prod()) / volume
    n_pairs = math.ceil(_sum_of_squares(bins, n_bins) * sphere_in_bins)
    n_atoms = len(system)
    return n_pairs if system.pbc.any() else min(n_pairs, n_atoms * (n_atoms - 1))


def _enclosed(system: System, cutoff: float) -> tuple[Floats, Floats]:
    """Return positions and a compact cell that encloses them, periodic in all directions."""
    if not system.pbc.any():
        # numpy reduces a few long rows many times faster than many short ones.
        columns = np.ascontiguousarray(system.positions.T)
        low, high = columns.min(axis=1), columns.max(axis=1)
        return system.positions - (low + high) / 2, np.diag(high - low + 2 * cutoff)
    if system.pbc.all() and _is_compact(system.cell):
        return system.positions, system.cell
    geometry = fold([system], cutoff)
    return geometry.search_positions, geometry.search_cells[0]


def _is_compact(cell: Floats) -> bool:
    a, b, c = cell.tolist()
    lengths = math.hypot(*a) * math.hypot(*b) * math.hypot(*c)
    return lengths <= MAX_SKEW * abs(_dot(a, _cross(b, c)))


def _measured(cell: Floats) -> tuple[float, Floats, list[float]]:
    """Return volume, inverse and face distances of a cell, without the overhead of numpy.

    With faces b × c, c × a and a × b, these are |a · b × c|, the faces as columns over
    a · b × c, and the volume over the area of each face.
    """
    a, b, c = cell.tolist()
    faces = _cross(b, c), _cross(c, a), _cross(a, b)
    volume = _dot(a, faces[0])
    distances = [abs(volume) / math.hypot(*face) for face in faces]
    return abs(volume), np.array(faces).T / volume, distances


def _cross(a: list[float], b: list[float]) -> list[float]:
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]


def _dot(a: list[float], b: list[float]) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _sum_of_squares(bins: Floats, n_bins: Floats) -> float:
    keys = ((bins[:, 0] * n_bins[1] + bins[:, 1]) * n_bins[2] + bins[:, 2]).astype(np.int64)
    if n_bins.prod() < 8 * len(keys):
        counts = np.bincount(keys)
    else:
        _, counts = np.unique(keys, return_counts=True)
    return float(np.square(counts, dtype=np.float64).sum())
