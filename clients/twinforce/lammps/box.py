"""The box, the units and the atoms of LAMMPS, as a service knows them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinforce_dynamics.elements import SYMBOLS
from twinforce_proto import System

# Energy of LAMMPS per eV; lengths are in Å in both. The number is that of LAMMPS itself.
_ENERGIES = {"metal": 1.0, "real": 23.060549}


def energy_unit(lmp: Any) -> float:
    """Return the energy of LAMMPS that is 1 eV.

    Raises:
        ValueError: Its units are neither metal nor real.
    """
    units = lmp.extract_global("units")
    if units not in _ENERGIES:
        raise ValueError(f"units: expected metal or real, got {units}")
    return _ENERGIES[units]


def atomic_numbers(types: Sequence[str] | Mapping[int, str], n_types: int) -> NDArray[np.int32]:
    """Return the atomic number of each type, shape [n_types + 1]; types count from 1.

    Args:
        types: Chemical symbols in the order of the types, or by type.
        n_types: Number of types in LAMMPS.

    Raises:
        ValueError: A type has no symbol, or there is no such element.
    """
    if isinstance(types, str):
        raise ValueError(f"types: expected a list of chemical symbols, got {types!r}")
    known = dict(types) if isinstance(types, Mapping) else dict(enumerate(types, 1))
    if set(known) != set(range(1, n_types + 1)):
        expected = f"a chemical symbol for each of the types 1 to {n_types}"
        raise ValueError(f"types: expected {expected}, got {known}")
    if unknown := [symbol for symbol in known.values() if symbol not in SYMBOLS]:
        raise ValueError(f"types: expected chemical symbols, got {', '.join(map(repr, unknown))}")
    numbers = np.zeros(n_types + 1, np.int32)
    for number, symbol in known.items():
        numbers[number] = SYMBOLS.index(symbol) + 1
    return numbers


def cell_of(lmp: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the lattice vectors as rows [3, 3], in Å, and the periodic directions [3]."""
    low, high, xy, yz, xz, periodic, _ = lmp.extract_box()
    lengths = np.subtract(high, low)
    cell = np.array([[lengths[0], 0.0, 0.0], [xy, lengths[1], 0.0], [xz, yz, lengths[2]]])
    return cell, np.array(periodic, bool)


def virial_of(stress: NDArray[np.float64], system: System) -> list[float]:
    """Return -V σ in eV, in the order of LAMMPS: xx, yy, zz, xy, xz, yz.

    Args:
        stress: Stress σ, shape [3, 3], in eV/Å³; tension > 0.
        system: System with the volume V.
    """
    volume = abs(np.linalg.det(system.cell))
    flat = -volume * stress[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    values: list[float] = flat.tolist()
    return values
