"""Atoms and their neighbors as rows of equal length, whose contents the host need not know.

A GPU that reports numbers of neighbors to the host is idle meanwhile. Here, the host fixes the
capacity: a number of atoms, and a number of neighbors per atom. Unused entries are padding that
does not change any result, and the capacity that was required is returned with the results.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

_SPAN = 128
"""One more than twice the largest shift: the base in which a shift is packed into one number."""

MAX_SHIFT = _SPAN // 2 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Positions of the atoms of many systems, in the form that a search needs.

    Padding atoms come last; they belong to a system without atoms, and have no neighbors.

    Attributes:
        atomic_numbers: Shape [n_atoms], int64.
        positions: Shape [n_atoms, 3], in Å, float64.
        owner: System of each atom, shape [n_atoms], int32.
        first: First atom of each system, shape [n_systems], int32.
        stop: One past the last atom of each system, shape [n_systems], int32.
        cells: Rows are lattice vectors, long enough along open directions to keep images apart;
            shape [n_systems, 3, 3], in Å, float64.
        inverses: Inverses of the cells, shape [n_systems, 3, 3], float64.
        reach: How many cells beyond the nearest image a neighbor may be, shape [n_systems, 3],
            int32.
    """

    atomic_numbers: Tensor
    positions: Tensor
    owner: Tensor
    first: Tensor
    stop: Tensor
    cells: Tensor
    inverses: Tensor
    reach: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Atoms and their neighbors.

    Attributes:
        atomic_numbers: Shape [n_atoms], int64.
        neighbors: In an arbitrary but reproducible order; padding points at the atom itself.
            Shape [n_atoms, width], int64.
        vectors: From each atom to its neighbors, shape [n_atoms, width, 3], in Å, in the data type
            that the potential computes in; padding lies one cutoff away.
        shifts: Whole cells by which each neighbor is moved, packed: see `packed`. Shape
            [n_atoms, width], int32.
        counts: Number of neighbors of each atom, int32; greater than the width if the capacity
            was too small and the row is incomplete.
    """

    atomic_numbers: Tensor
    neighbors: Tensor
    vectors: Tensor
    shifts: Tensor
    counts: Tensor

    @property
    def is_real(self) -> Tensor:
        """True for entries that are not padding, shape [n_atoms, width]."""
        width = self.neighbors.shape[1]
        return torch.arange(width, device=self.counts.device) < self.counts.unsqueeze(1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The kinds of results that an evaluation must return.

    Attributes:
        energy: Energies per atom.
        gradient: Conservative forces and strain gradients.
        direct: Direct forces and strain gradients.
    """

    energy: bool
    gradient: bool
    direct: bool


@dataclass(frozen=True, slots=True, eq=False)
class AtomValues:
    """Results per atom of a table; only the requested ones need be set.

    Attributes:
        energies: Shape [n_atoms], in eV, float64.
        conservative_forces: Shape [n_atoms, 3], in eV/Å.
        strain_gradients: Volume times conservative stress, split over atoms; shape
            [n_atoms, 3, 3], in eV.
        direct_forces: Shape [n_atoms, 3], in eV/Å, net force included.
        direct_strain_gradients: Volume times direct stress, likewise.
        n_seen: Largest number of neighbors that the potential chose for an atom, a scalar int32;
            None if it uses all of them.
    """

    energies: Tensor | None = None
    conservative_forces: Tensor | None = None
    strain_gradients: Tensor | None = None
    direct_forces: Tensor | None = None
    direct_strain_gradients: Tensor | None = None
    n_seen: Tensor | None = None


class Tabular(Protocol):
    """A `Potential` that can be evaluated on a `Table`, with no decision made on the host."""

    @property
    def table_variant(self) -> Hashable:
        """Key of the implementation that evaluates tables at present; None if there is none."""

    def evaluate_table(self, table: Table, wanted: Wanted, max_seen: int) -> AtomValues:
        """Evaluate a table; tables of the same size always run the same operations.

        Args:
            table: The table; its padding must not change any result.
            wanted: The kinds of results to return.
            max_seen: Capacity for the neighbors that the potential chooses for an atom; the results
                are meaningless if `n_seen` is larger.
        """


def as_tabular(potential: object) -> Tabular | None:
    """Return the potential if it is `Tabular` and can evaluate tables at present, or None."""
    variant = getattr(potential, "table_variant", None)
    return None if variant is None else cast(Tabular, potential)


def packed(shifts: Tensor) -> Tensor:
    """Return shifts [..., 3] of at most `MAX_SHIFT` as one int32 each; odd under s -> -s."""
    x, y, z = shifts.to(torch.int32).unbind(-1)
    return (x * _SPAN + y) * _SPAN + z
