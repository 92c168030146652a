"""Conversion of ASE atoms to systems."""

from typing import Any

from ase import Atoms

from twinforce_proto import ModelInfo, System


def system_of(atoms: Atoms, info: ModelInfo | None = None) -> System:
    """Return the system for ASE atoms.

    Args:
        atoms: Atoms with positions and cell in Å.
        info: Description of the model; charge and spin are read from `atoms.info` if it uses them.

    Raises:
        InvalidSystemError: The atoms are malformed, for example not finite.
    """
    labels: dict[str, Any] = {} if info is None else labels_of(atoms, info)
    return System(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, **labels)


def labels_of(atoms: Atoms, info: ModelInfo) -> dict[str, float | int]:
    """Return the charge and spin in `atoms.info`, if they are there and the model uses them."""
    labels = atoms.info
    spin = labels.get("spin_multiplicity", labels.get("spin"))
    used = {
        "charge": labels.get("charge") if info.uses_charge else None,
        "spin_multiplicity": spin if info.uses_spin else None,
    }
    return {name: value for name, value in used.items() if value is not None}
