"""One atomistic system and what is predicted for it, as numpy arrays."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinforce_proto import checks


@dataclass(frozen=True, slots=True, eq=False, init=False)
class System:
    """One atomistic system, checked when it is made.

    What already has the right type is not copied; the arrays kept are read-only views.

    Attributes:
        atomic_numbers: Shape [n_atoms], 1 to 118.
        positions: Shape [n_atoms, 3], in Å; they need not lie inside the cell.
        cell: Lattice vectors as rows, shape [3, 3], in Å; zeros where there is none. May be
            skewed or left-handed.
        pbc: Periodic along each lattice vector, shape [3].
        charge: Total charge, in elementary charges.
        spin_multiplicity: 2S + 1.
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
        """Check and keep the arrays.

        Args:
            atomic_numbers: At least one whole number from 1 to 118.
            positions: Finite, shape [n_atoms, 3], in Å.
            cell: Finite, shape [3, 3], in Å. The vectors along periodic directions must not be
                zero and must not lie in one plane or on one line. None: no cell.
            pbc: Three bools, or one for all directions. None: open.
            charge: Finite, in elementary charges.
            spin_multiplicity: A whole number, at least 1.

        Raises:
            InvalidSystemError: When anything else came; `field` says where.
        """
        numbers = checks.atomic_numbers(atomic_numbers)
        periodic = checks.pbc(pbc)
        self._set(
            atomic_numbers=numbers,
            positions=checks.coordinates("positions", positions, (len(numbers), 3)),
            cell=checks.cell(cell, periodic),
            pbc=periodic,
            charge=checks.charge(charge),
            spin_multiplicity=checks.spin_multiplicity(spin_multiplicity),
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
        """Return the system with these attributes, which those of another one have been."""
        system = object.__new__(cls)
        system._set(
            atomic_numbers=atomic_numbers,
            positions=positions,
            cell=cell,
            pbc=pbc,
            charge=charge,
            spin_multiplicity=spin_multiplicity,
        )
        return system

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    def moved(self, positions: ArrayLike, cell: ArrayLike | None = None) -> Self:
        """Return this system with other coordinates; what stays is shared, not checked again.

        Args:
            positions: Shape [n_atoms, 3], in Å.
            cell: Shape [3, 3], in Å. None: unchanged.

        Raises:
            InvalidSystemError: As on construction.
        """
        return self.of_checked(
            self.atomic_numbers,
            checks.coordinates("positions", positions, (len(self), 3)),
            self.cell if cell is None else checks.cell(cell, self.pbc),
            self.pbc,
            self.charge,
            self.spin_multiplicity,
        )

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)
