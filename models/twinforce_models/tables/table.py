"""Atoms and their neighbors as rows of equal length, nothing of which is known to the host.

A GPU that has to tell the host how many neighbors there are stands still meanwhile. Here the host
only promises room: so many atoms, so many neighbors of each. What is left over is padding that
changes no result, and whether there was room enough comes back with the results.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

_SPAN = 128
"""One more than twice the largest shift; a shift is packed into one number to this base."""

MAX_SHIFT = _SPAN // 2 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where the atoms of many systems are, as a search needs it.

    Padding atoms come last; they belong to a system without atoms, and have no neighbors.

    Attributes:
        atomic_numbers: Shape [n_atoms], int64.
        positions: Shape [n_atoms, 3], in Å.
        owner: Whose each atom is, shape [n_atoms], int32.
        first: The first atom of each system, shape [n_systems], int32.
        stop: One past the last, shape [n_systems], int32.
        cells: Rows are lattice vectors, long enough along open directions for images not to
            meet; shape [n_systems, 3, 3], in Å.
        inverses: Of the cells, shape [n_systems, 3, 3].
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
        positions: Shape [n_atoms, 3], in Å.
        neighbors: Sorted in no order that matters, but always the same one; padding points at the
            atom itself. Shape [n_atoms, width], int64.
        offsets: From the neighbor's position to the image that is meant, shape
            [n_atoms, width, 3], in Å; padding lies one cutoff away.
        shifts: The same in whole cells, packed: see `packed`. Shape [n_atoms, width], int32.
        counts: How many neighbors each atom has, int32; more than the width where the room was
            too small, and the row lacks the rest.
    """

    atomic_numbers: Tensor
    positions: Tensor
    neighbors: Tensor
    offsets: Tensor
    shifts: Tensor
    counts: Tensor

    @property
    def is_real(self) -> Tensor:
        """Which entries are no padding, shape [n_atoms, width]."""
        width = self.neighbors.shape[1]
        return torch.arange(width, device=self.counts.device) < self.counts.unsqueeze(1)

    def vectors(self) -> Tensor:
        """Return the vectors from each atom to its neighbors, shape [n_atoms, width, 3], in Å."""
        return self.positions[self.neighbors] - self.positions.unsqueeze(1) + self.offsets


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an evaluation is for; as few kinds of it as there are ways to evaluate.

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
    """What a potential says of each atom of a table; only what is wanted need be there.

    Attributes:
        energies: Shape [n_atoms], in eV, float64.
        conservative_forces: Shape [n_atoms, 3], in eV/Å.
        strain_gradients: Volume times conservative stress, split over atoms; shape
            [n_atoms, 3, 3], in eV.
        direct_forces: Shape [n_atoms, 3], in eV/Å, net force and all.
        direct_strain_gradients: Volume times direct stress, likewise.
        n_seen: How many neighbors an atom has at most that the potential chose to see, a scalar
            int32; None where it sees all of them.
    """

    energies: Tensor | None = None
    conservative_forces: Tensor | None = None
    strain_gradients: Tensor | None = None
    direct_forces: Tensor | None = None
    direct_strain_gradients: Tensor | None = None
    n_seen: Tensor | None = None


class Tabular(Protocol):
    """A `Potential` that can be evaluated on a `Table`, with nothing decided on the host."""

    @property
    def table_variant(self) -> Hashable:
        """What it would evaluate a table with just now; None if it cannot."""

    def evaluate_table(self, table: Table, wanted: Wanted, max_seen: int) -> AtomValues:
        """Evaluate a table; on the same sizes, always the same operations.

        Args:
            table: Whose padding must change nothing.
            wanted: What for.
            max_seen: Room for the neighbors of an atom that the potential chooses to see; its
                values mean nothing if `n_seen` is larger.
        """


def as_tabular(potential: object) -> Tabular | None:
    """Return the potential if it is `Tabular` and can be evaluated so."""
    variant = getattr(potential, "table_variant", None)
    return None if variant is None else cast(Tabular, potential)


def packed(shifts: Tensor) -> Tensor:
    """Return shifts [..., 3] of at most `MAX_SHIFT` as one int32 each; -s becomes minus that."""
    x, y, z = shifts.to(torch.int32).unbind(-1)
    return (x * _SPAN + y) * _SPAN + z
