"""Systems labeled by the teacher, as they are sampled and as they are trained on.

While walkers move, their labels are appended in numbered files, each written as a whole:

    labels-0000.npz    of each walker: labels since the file before, and the state to go on from

Training reads extended XYZ, in which two adjacent systems of one `group` are twins: the same atoms
a few fs later.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from twinforce._files import replace_file

Floats = NDArray[np.float64]

# Twins are about this far apart, in fs.
_TWIN_GAP_FS = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Labels along the trajectory of one walker.

    Attributes:
        positions: Shape [n, n_atoms, 3], in Å.
        energies: Shape [n], in eV.
        forces: Conservative forces of the teacher, shape [n, n_atoms, 3], in eV/Å.
        stresses: Conservative stress of the teacher in Voigt's order, shape [n, 6], in eV/Å³;
            NaN if it has none.
        disagreements: Root mean square of (conservative - direct forces), shape [n], in eV/Å;
            NaN if the teacher moved alone.
        temperatures_k: Shape [n], in K.
        segments: Number of the uninterrupted trajectory that each belongs to, shape [n].
        steps_fs: Time since the label before in the same segment, shape [n], in fs.
    """

    positions: Floats
    energies: Floats
    forces: Floats
    stresses: Floats
    disagreements: Floats
    temperatures_k: Floats
    segments: NDArray[np.int64]
    steps_fs: Floats

    def __len__(self) -> int:
        return len(self.energies)

    @classmethod
    def empty(cls, n_atoms: int) -> Self:
        """Return no labels of a system."""
        none = np.zeros(0)
        shape = np.zeros((0, n_atoms, 3))
        stresses, segments = np.zeros((0, 6)), np.zeros(0, dtype=np.int64)
        return cls(shape, none, shape, stresses, none, none, segments, none)

    @classmethod
    def joined(cls, parts: "Sequence[Labels]") -> "Labels":
        """Return labels one after the other."""
        return cls(
            *(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls))
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all arrays by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def since(self, first: int) -> "Labels":
        """Return the labels from an index on."""
        return type(self)(**{name: array[first:] for name, array in self.arrays().items()})

    def groups(self) -> list[tuple[int, ...]]:
        """Return the indices of all labels, in groups: twins, or a label alone."""
        groups: list[tuple[int, ...]] = []
        for segment in np.unique(self.segments):
            members = np.flatnonzero(self.segments == segment)
            step = float(self.steps_fs[members[0]])
            gap = max(round(_TWIN_GAP_FS / step), 1)
            for begin in range(0, len(members), 2 * gap):
                block = members[begin : begin + 2 * gap]
                firsts, seconds = block[:gap], block[gap:]
                groups += [(int(a), int(b)) for a, b in zip(firsts, seconds, strict=False)]
                groups += [(int(a),) for a in firsts[len(seconds) :]]
        return groups


def write_labels(path: Path, content: dict[str, NDArray[Any]], facts: dict[str, Any]) -> None:
    """Write arrays and facts as one file, as a whole."""
    file = io.BytesIO()
    np.savez(file, facts=np.array(json.dumps(facts)), **content)  # type: ignore[arg-type]
    replace_file(path, file.getvalue())


def read_labels(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and facts of a file from `write_labels`."""
    with np.load(path) as saved:
        content = {name: saved[name] for name in saved.files}
    return content, json.loads(str(content.pop("facts")))


@dataclass(frozen=True, slots=True, eq=False)
class LabeledGroup:
    """One or two labeled systems of the same atoms, a few fs apart.

    Attributes:
        labels: Labels of the walker.
        members: Indices of the one or two systems in the labels.
        atoms: The atoms, at any positions, in their cell.
        temperature_k: Temperature that the walker was kept at, in K.
    """

    labels: Labels
    members: tuple[int, ...]
    atoms: Atoms
    temperature_k: float

    @property
    def disagreement(self) -> float:
        """Largest disagreement in it, in eV/Å; NaN if there is none."""
        return float(np.max(self.labels.disagreements[list(self.members)]))

    def examples(self, split: str, group: int, round_number: int) -> Iterator[Atoms]:
        """Yield the systems as training reads them.

        Args:
            split: "train" or "test".
            group: Number of the group.
            round_number: Number of the round.
        """
        labels = self.labels
        for index in self.members:
            example = bare(self.atoms)
            example.positions[:] = labels.positions[index]
            results = {"energy": labels.energies[index], "forces": labels.forces[index]}
            if np.isfinite(labels.stresses[index]).all():
                results["stress"] = labels.stresses[index]
            example.calc = SinglePointCalculator(example, **results)
            example.info |= {
                "split": split,
                "group": group,
                "round": round_number,
                "temperature_k": self.temperature_k,
            }
            if len(self.members) == 2:
                first, second = self.members
                gap = float(labels.steps_fs[first + 1 : second + 1].sum())
                example.info["gap_fs"] = round(gap, 6)
            yield example


def bare(atoms: Atoms) -> Atoms:
    """Return atoms without velocities, constraints and labels, except charge and spin."""
    kept = {
        name: atoms.info[name]
        for name in ("charge", "spin", "spin_multiplicity")
        if name in atoms.info
    }
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=kept)


def write_examples(path: Path, examples: Sequence[Atoms]) -> None:
    """Write labeled systems as extended XYZ, as a whole."""
    text = io.StringIO()
    ase.io.write(text, examples, format="extxyz")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.getvalue().encode())


def voigt(stress: NDArray[np.float64] | None) -> Floats:
    """Return a stress in Voigt's order, or NaN if there is none."""
    if stress is None:
        return np.full(6, np.nan)
    found: Floats = full_3x3_to_voigt_6_stress(stress)
    return found
