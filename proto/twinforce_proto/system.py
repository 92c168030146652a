"""One atomistic system, as numpy arrays."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinforce_proto import checks


@dataclass(frozen=True, slots=True, eq=False, init=False)
class System:
    """One atomistic system, validated on construction.

    Arrays that already have the right type are not copied; the attributes are read-only views.

    Attributes:
        atomic_numbers: Shape [n_atoms], from 1 to 118.
        positions: Shape [n_atoms, 3], in Å; atoms may lie outside the cell.
        cell: Lattice vectors as rows, shape [3, 3], in Å; zeros if there is no cell. It may be
            skewed or left-handed.
        pbc: Periodicity along each lattice vector, shape [3].
        charge: Total charge, in elementary charges, or None.
        spin_multiplicity: 2S + 1, or None.
    """

    atomic_numbers: NDArray[np.int32]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    charge: float | None
    spin_multiplicity: int | None

    def __init__(
        self,
        atomic_numbers: ArrayLike,
        positions: ArrayLike,
        cell: ArrayLike | None = None,
        pbc: ArrayLike | None = None,
        charge: float | None = None,
        spin_multiplicity: int | None = None,
    ) -> None:
        """Validate the values and keep them.

        Args:
            atomic_numbers: At least one whole number from 1 to 118.
            positions: Finite numbers of shape [n_atoms, 3], in Å.
            cell: Finite numbers of shape [3, 3], in Å. The vectors along periodic directions must
                be linearly independent. None: no cell.
            pbc: Three bools, or one for all directions. None: open.
            charge: Finite number, in elementary charges.
            spin_multiplicity: Whole number, at least 1.

        Raises:
            InvalidSystemError: A value is invalid; `field` names it.
        """
        numbers = checks.atomic_numbers(atomic_numbers)
        periodic = checks.pbc(pbc)
        self._set(
            numbers,
            checks.coordinates("positions", positions, (len(numbers), 3)),
            checks.cell(cell, periodic),
            periodic,
            checks.charge(charge),
            checks.spin_multiplicity(spin_multiplicity),
        )

    @classmethod
    def of_checked(
        cls,
        atomic_numbers: NDArray[np.int32],
        positions: NDArray[np.float64],
        cell: NDArray[np.float64],
        pbc: NDArray[np.bool_],
        charge: float | None,
        spin_multiplicity: int | None,
    ) -> Self:
        """Return a system with these attributes without validating them again."""
        system = object.__new__(cls)
        system._set(atomic_numbers, positions, cell, pbc, charge, spin_multiplicity)
        return system

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    def moved(self, positions: ArrayLike, cell: ArrayLike | None = None) -> Self:
        """Return this system with new coordinates; the other attributes are shared.

        Args:
            positions: Shape [n_atoms, 3], in Å.
            cell: Shape [3, 3], in Å. None: unchanged.

        Raises:
            InvalidSystemError: The coordinates are invalid; `field` names them.
        """
        return self.of_checked(
            self.atomic_numbers,
            checks.coordinates("positions", positions, (len(self), 3)),
            self.cell if cell is None else checks.cell(cell, self.pbc),
            self.pbc,
            self.charge,
            self.spin_multiplicity,
        )

    def _set(
        self,
        atomic_numbers: NDArray[np.int32],
        positions: NDArray[np.float64],
        cell: NDArray[np.float64],
        pbc: NDArray[np.bool_],
        charge: float | None,
        spin_multiplicity: int | None,
    ) -> None:
        assign = object.__setattr__
        assign(self, "atomic_numbers", atomic_numbers)
        assign(self, "positions", positions)
        assign(self, "cell", cell)
        assign(self, "pbc", pbc)
        assign(self, "charge", charge)
        assign(self, "spin_multiplicity", spin_multiplicity)
