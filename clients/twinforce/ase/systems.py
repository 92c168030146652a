"""Conversion of ASE atoms to systems."""

from typing import Any

from ase import Atoms

from twinforce_proto import System, checks


def system_of(atoms: Atoms) -> System:
    """Return the system for ASE atoms.

    Charge and spin are those in `atoms.info`; see `labels_of`. A model that does not use them
    refuses a system with a charge or a spin multiplicity other than 1.

    Args:
        atoms: Atoms with positions and cell in Å.

    Raises:
        InvalidSystemError: The atoms are malformed, for example not finite.
    """
    return System(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, **labels_of(atoms))


def labels_of(atoms: Atoms) -> dict[str, Any]:
    """Return the charge and the spin multiplicity in `atoms.info`, those that are there.

    They are "charge" and "spin_multiplicity" or, without it, "spin": both 2S + 1. Initial charges
    and magnetic moments of atoms say nothing about the whole system to a potential.

    Raises:
        InvalidSystemError: One of them is malformed.
    """
    given = labels_in(atoms)
    labels = {
        "charge": checks.charge(given["charge"]),
        "spin_multiplicity": checks.spin_multiplicity(given["spin_multiplicity"]),
    }
    return {name: value for name, value in labels.items() if value is not None}


def labels_in(atoms: Atoms) -> dict[str, Any]:
    """Return the same as `labels_of` as it is, without checks; None stands for what is missing."""
    info = atoms.info
    spin = info.get("spin_multiplicity", info.get("spin"))
    return {"charge": info.get("charge"), "spin_multiplicity": spin}
