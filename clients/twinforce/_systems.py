"""Conversion of ASE atoms, and of whatever looks like them, to systems."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from twinforce_proto import InvalidSystemError, System, checks

# Limits of one request.
MAX_SYSTEMS = 256
_MAX_ATOMS = 10_000

_EXPECTED = "expected a System or the Atoms of ASE"


class AtomsLike(Protocol):
    """An object with the attributes of the `Atoms` of ASE, which need not be installed."""

    @property
    def numbers(self) -> Any:
        """Atomic numbers [n]."""

    @property
    def positions(self) -> Any:
        """Positions [n, 3], in Å."""

    @property
    def cell(self) -> Any:
        """Lattice vectors as rows [3, 3], in Å."""

    @property
    def pbc(self) -> Any:
        """Directions in which the system is periodic [3]."""

    @property
    def info(self) -> Any:
        """Labels, such as the charge."""


SystemLike = System | AtomsLike


def is_one_system(value: object) -> bool:
    """Return True for a system, or for an object like the `Atoms` of ASE."""
    names = ("numbers", "positions", "cell", "pbc")
    return isinstance(value, System) or all(hasattr(value, name) for name in names)


def as_system(value: SystemLike) -> System:
    """Return the system itself, or the system of such atoms.

    Raises:
        TypeError: It is neither.
        InvalidSystemError: The atoms are malformed.
    """
    if isinstance(value, System):
        return value
    if not is_one_system(value):
        raise TypeError(f"system: {_EXPECTED}, got {type(value).__name__}")
    return system_of(value)


def as_systems(values: Iterable[SystemLike]) -> list[System]:
    """Return the systems for a list or any other iterable.

    Raises:
        TypeError: It is not an iterable of systems or such atoms.
        InvalidSystemError: Some atoms are malformed; the error holds their index.
    """
    if not isinstance(values, Iterable):
        raise TypeError(f"systems: {_EXPECTED}, or a list of them, got {type(values).__name__}")
    systems = []
    for index, value in enumerate(values):
        if not is_one_system(value):
            raise TypeError(f"systems[{index}]: {_EXPECTED}, got {type(value).__name__}")
        try:
            systems.append(as_system(value))
        except InvalidSystemError as error:
            raise error.at(index) from error
    return systems


def chunked(systems: Iterable[System], max_systems: int = MAX_SYSTEMS) -> Iterator[list[System]]:
    """Yield the systems in groups that are small enough for one request."""
    chunk: list[System] = []
    n_atoms = 0
    for system in systems:
        n_atoms += len(system)
        if chunk and (n_atoms > _MAX_ATOMS or len(chunk) == max_systems):
            yield chunk
            chunk, n_atoms = [], len(system)
        chunk.append(system)
    if chunk:
        yield chunk


def system_of(atoms: AtomsLike) -> System:
    """Return the system for ASE atoms.

    Charge and spin are those in `atoms.info`; see `labels_of`. A model that does not use them
    refuses a system with a charge or a spin multiplicity other than 1.

    Args:
        atoms: Atoms with positions and cell in Å.

    Raises:
        InvalidSystemError: The atoms are malformed, for example not finite.
    """
    cell = np.asarray(atoms.cell, dtype=np.float64)
    return System(atoms.numbers, atoms.positions, cell, atoms.pbc, **labels_of(atoms))


def has_periodic_volume(system: System) -> bool:
    """Return True if a system is periodic in some direction and its cell has a volume."""
    pbc = system.pbc
    return bool(pbc.all() or (pbc.any() and checks.has_volume(system.cell)))


def labels_of(atoms: AtomsLike) -> dict[str, Any]:
    """Return the charge and the spin multiplicity in `atoms.info`, those that are there.

    They are "charge" and "spin_multiplicity" or, without it, "spin": both 2S + 1. Initial charges
    and magnetic moments of atoms say nothing about the whole system to a potential.

    Raises:
        InvalidSystemError: One of them is malformed.
    """
    given = labels_in(atoms)
    labels = {
        "charge": checks.charge(given["charge"]),
        "spin_multiplicity": checks.spin_multiplicity(_whole(given["spin_multiplicity"])),
    }
    return {name: value for name, value in labels.items() if value is not None}


def labels_in(atoms: AtomsLike) -> dict[str, Any]:
    """Return the same as `labels_of` as it is, without checks; None stands for what is missing."""
    info = getattr(atoms, "info", {})
    spin = info.get("spin_multiplicity", info.get("spin"))
    return {"charge": info.get("charge"), "spin_multiplicity": spin}


def are_fixed(atoms: SystemLike) -> NDArray[np.bool_]:
    """Return True for each atom that the constraints of ASE atoms fix, shape [n_atoms].

    Raises:
        ValueError: There is a constraint other than FixAtoms.
    """
    fixed = np.zeros(len(atoms) if isinstance(atoms, System) else len(atoms.numbers), bool)
    for constraint in getattr(atoms, "constraints", ()):
        if all(each.__name__ != "FixAtoms" for each in type(constraint).__mro__):
            kind = type(constraint).__name__
            raise ValueError(f"constraints: expected FixAtoms only, got {kind}")
        fixed[constraint.index] = True
    return fixed


def _whole(value: Any) -> Any:
    """Return 3.0, as some files have it, as 3, and everything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
