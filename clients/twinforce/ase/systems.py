"""Atoms of ASE as systems."""

from typing import Any

from ase import Atoms

from twinforce_proto import ModelInfo, System


def system_of(atoms: Atoms, info: ModelInfo | None = None) -> System:
    """Return the system that these atoms are.

    Args:
        atoms: Positions and cell in Å, as ASE has them.
        info: Of the model, which says whether `atoms.info` is looked at for charge and spin.

    Raises:
        InvalidSystemError: When they cannot be evaluated.
    """
    labels: dict[str, Any] = {} if info is None else labels_of(atoms, info)
    return System(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, **labels)


def labels_of(atoms: Atoms, info: ModelInfo) -> dict[str, float | int]:
    """Return the charge and spin of atoms, as far as the model uses them and they are known."""
    known = atoms.info
    spin = known.get("spin_multiplicity", known.get("spin"))
    labels = {
        "charge": known.get("charge") if info.uses_charge else None,
        "spin_multiplicity": spin if info.uses_spin else None,
    }
    return {name: value for name, value in labels.items() if value is not None}
