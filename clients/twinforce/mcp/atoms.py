"""Systems as agents give them and get them back: plain lists."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from twinforce_dynamics.elements import SYMBOLS
from twinforce_proto import InvalidSystemError, System

# Digits behind the decimal point of lengths, forces and stresses in a reply.
_N_DIGITS = 6


@dataclass(frozen=True)
class Atoms:
    """An atomistic system.

    Attributes:
        symbols: Chemical symbol of each atom, such as ["O", "H", "H"].
        positions: Position of each atom, in Å.
        cell: Three lattice vectors, in Å; none for a molecule.
        pbc: True for each lattice vector along which the system is periodic, or one value for all.
        charge: Total charge, in elementary charges.
        spin_multiplicity: 2S + 1.
    """

    symbols: list[str]
    positions: list[list[float]]
    cell: list[list[float]] | None = None
    pbc: list[bool] | bool = False
    charge: float | None = None
    spin_multiplicity: int | None = None

    def system(self) -> System:
        """Return the system.

        Raises:
            InvalidSystemError: A value is invalid; `field` names it.
        """
        return System(
            [_number_of(index, symbol) for index, symbol in enumerate(self.symbols)],
            self.positions,
            self.cell,
            self.pbc,
            self.charge,
            self.spin_multiplicity,
        )


def rounded(values: ArrayLike) -> Any:
    """Return numbers as lists, rounded to what matters."""
    return np.round(np.asarray(values, np.float64), _N_DIGITS).tolist()


def symbols_of(atomic_numbers: Sequence[int]) -> list[str]:
    """Return the chemical symbols of these elements."""
    return [SYMBOLS[number - 1] for number in atomic_numbers]


def _number_of(index: int, symbol: str) -> int:
    if symbol not in SYMBOLS:
        raise InvalidSystemError.expected(f"symbols[{index}]", "a chemical symbol", repr(symbol))
    return SYMBOLS.index(symbol) + 1
