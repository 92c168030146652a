"""Radial distribution functions of each pair of species."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinforce.assess.analysis.statistics import Floats

_N_BLOCKS = 10
_MOST_SNAPSHOTS = 400


@dataclass(frozen=True, slots=True, eq=False)
class RadialDistribution:
    """A radial distribution function.

    Attributes:
        distances: Centers of the bins, in Å, shape [n_bins].
        values: Values of g, shape [n_bins].
        errors: Standard errors from the scatter of blocks, shape [n_bins].
    """

    distances: Floats
    values: Floats
    errors: Floats

    @property
    def peak(self) -> float:
        """Distance of the maximum, in Å."""
        return float(self.distances[self.values.argmax()])


def largest_distance(cell: Floats) -> float:
    """Return half the smallest height of the cell, up to which nearest images are unique."""
    return float(0.5 / np.linalg.norm(np.linalg.inv(cell), axis=0).max())


def radial_distributions(
    positions: Floats,
    cell: Floats,
    symbols: NDArray[np.str_],
    bin_width: float = 0.05,
    largest: float | None = None,
) -> dict[str, RadialDistribution]:
    """Return g(r) of every pair of species, by names such as "H-O".

    Args:
        positions: Positions in Å, shape [n_times, n_atoms, 3]; long trajectories are thinned.
        cell: Lattice vectors as rows, in Å, shape [3, 3], periodic in all three directions.
        symbols: Chemical symbols of the atoms, shape [n_atoms].
        bin_width: Width of a bin, in Å.
        largest: Largest distance, in Å; None, and any larger value, means half the smallest height
            of the cell.
    """
    max_distance = min(largest or np.inf, largest_distance(cell))
    n_bins = int(max_distance / bin_width)
    if n_bins < 2 or len(positions) < _N_BLOCKS:
        return {}
    edges = np.linspace(0.0, n_bins * bin_width, n_bins + 1)
    thinned = positions[:: -(-len(positions) // _MOST_SNAPSHOTS)]
    blocks = [block for block in np.array_split(thinned, _N_BLOCKS) if len(block)]
    distributions = {}
    for name, first, second, n_pairs in _pairs(symbols):
        ideal = n_pairs * 4.0 / 3.0 * np.pi * np.diff(edges**3) / abs(np.linalg.det(cell))
        g = np.array([_counts(block, cell, first, second, edges) / ideal for block in blocks])
        errors = g.std(axis=0, ddof=1) / np.sqrt(len(g))
        centers = (edges[1:] + edges[:-1]) / 2
        distributions[name] = RadialDistribution(centers, g.mean(axis=0), errors)
    return distributions


def _pairs(
    symbols: NDArray[np.str_],
) -> Iterator[tuple[str, NDArray[np.intp], NDArray[np.intp], float]]:
    """Yield the name of each pair of species, the atoms of both, and their number of pairs."""
    for one, other in itertools.combinations_with_replacement(sorted(set(symbols)), 2):
        first, second = np.flatnonzero(symbols == one), np.flatnonzero(symbols == other)
        n_pairs = len(first) * (len(second) - (1 if one == other else 0))
        if n_pairs:
            yield f"{one}-{other}", first, second, float(n_pairs)


def _counts(
    positions: Floats,
    cell: Floats,
    first: NDArray[np.intp],
    second: NDArray[np.intp],
    edges: Floats,
) -> Floats:
    """Return the number of ordered pairs in each bin, averaged over time."""
    inverse = np.linalg.inv(cell)
    total = np.zeros(len(edges) - 1)
    for snapshot in positions:
        fractional = snapshot @ inverse
        difference = fractional[first, None] - fractional[None, second]
        distances = np.linalg.norm((difference - difference.round()) @ cell, axis=-1)
        distances[first[:, None] == second[None, :]] = np.inf
        total += np.histogram(distances, edges)[0]
    return total / len(positions)
