"""Labelled systems, read once, packed together, with their neighbors laid out as tables."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.potentials.hybrid_net.potential import neighbor_counts, places_in_table
from twinforce_models.training.config import Recipe, Table
from twinforce_proto import System

# A labelled system alone, or two instants of one that belong together.
Group = tuple[ase.Atoms, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What one training step sees: a labelled system, or several.

    Padding keeps samples to a few shapes: atoms without neighbors that belong to no system, and
    systems without atoms.

    Attributes:
        kinds: Place of each atom's element within the model's elements. Shape [n_atoms].
        positions: Shape [n_atoms, 3], in Å.
        index: Neighbor of each entry of the table; padding points at the atom itself. Shape
            [n_atoms, k].
        offsets: Periodic shift of each neighbor; of padding, a vector as long as the cutoff.
            Shape [n_atoms, k, 3], in Å.
        reverse: Entry of the flat table that holds the same pair seen from its other atom.
            Shape [n_atoms * k].
        membership: 1 where an atom belongs to a system, else 0. Shape [n_systems, n_atoms].
        energy_labels: Without the elements' reference energies. Shape [n_systems], in eV.
        force_labels: Shape [n_atoms, 3], in eV/Å.
        strain_gradient_labels: Volume times stress; NaN where the data have none. Shape
            [n_systems, 3, 3], in eV.
        error_weights: How much errors of each atom count. Shape [n_atoms].
        twin: The same atom in the system's twin, a few fs away; itself where there is none. Shape
            [n_atoms].
    """

    kinds: Tensor
    positions: Tensor
    index: Tensor
    offsets: Tensor
    reverse: Tensor
    membership: Tensor
    energy_labels: Tensor
    force_labels: Tensor
    strain_gradient_labels: Tensor
    error_weights: Tensor
    twin: Tensor

    @property
    def shape(self) -> Table:
        """What tells apart samples that one compiled step can take."""
        n_systems, n_atoms = self.membership.shape
        return Table(n_atoms, self.index.shape[1], n_systems)

    def vectors(self) -> Tensor:
        """Return the vectors from each atom to its neighbors, shape [n_atoms, k, 3], in Å."""
        return self.positions[self.index] - self.positions[:, None] + self.offsets

    def per_system(self, values: Tensor) -> Tensor:
        """Return the mean of `values` [n_atoms] over each system; 0 for one without atoms."""
        return self.membership @ values / self.membership.sum(1).clamp(min=1.0)


def read_examples(path: Path) -> list[ase.Atoms]:
    """Read every extended XYZ file under `path`, in order of name.

    Raises:
        FileNotFoundError: If there is none.
    """
    files = sorted(path.glob("*.xyz")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise FileNotFoundError(f"no .xyz file at {path}")
    return [example for file in files for example in ase.io.read(file, ":")]


def data_sha256(examples: Sequence[ase.Atoms]) -> str:
    """Return a hash of the frames and their labels, in this order."""
    digest = hashlib.sha256()
    for example in examples:
        labels = [np.array([example.get_potential_energy()]), example.get_forces()]
        if "stress" in example.calc.results:
            labels.append(example.get_stress())
        for array in (example.numbers, example.positions, example.cell.array, *labels):
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
    return digest.hexdigest()


def split_examples(
    examples: Sequence[ase.Atoms], recipe: Recipe
) -> tuple[list[ase.Atoms], list[ase.Atoms]]:
    """Return what is for training, and the rest for testing.

    Raises:
        ValueError: If the recipe goes by an entry of `info` that a frame lacks.
    """
    if recipe.split_key:
        parts: dict[str, list[ase.Atoms]] = {"train": [], "test": []}
        for n, example in enumerate(examples):
            part = example.info.get(recipe.split_key)
            if part not in parts:
                raise ValueError(
                    f"system {n}: info[{recipe.split_key!r}]: expected train or test, got {part!r}"
                )
            parts[part].append(example)
        return parts["train"], parts["test"]
    order = np.random.default_rng(recipe.seed).permutation(len(examples))
    n_test = round(recipe.test_fraction * len(examples))
    return [examples[i] for i in sorted(order[n_test:])], [
        examples[i] for i in sorted(order[:n_test])
    ]


def fit_reference_energies(
    examples: Sequence[ase.Atoms], elements: Sequence[int]
) -> NDArray[np.float64]:
    """Return an energy per element whose sums fit the labels best, the smallest if many do.

    Returns:
        Shape [n_elements], in eV.
    """
    counts = np.array([[np.sum(f.numbers == z) for z in elements] for f in examples], dtype=float)
    energies = np.array([f.get_potential_energy() for f in examples])
    solution: NDArray[np.float64] = np.linalg.lstsq(counts, energies, rcond=None)[0]
    return solution


def error_scales(
    examples: Sequence[ase.Atoms], elements: Sequence[int], balance: float
) -> NDArray[np.float64]:
    """Return what errors of each element are multiplied by, 1 for the mean square of all forces.

    Returns:
        (rms force of all atoms / rms force of the element) ** balance. Shape [n_elements].
    """
    numbers = np.concatenate([example.numbers for example in examples])
    squares = np.square(np.concatenate([example.get_forces() for example in examples])).mean(axis=1)
    means = [squares[numbers == z].mean() if np.any(numbers == z) else np.nan for z in elements]
    scales: NDArray[np.float64] = (squares.mean() / np.array(means)) ** (balance / 2)
    return np.nan_to_num(scales, nan=1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Tabulator:
    """Makes samples in float32 of frames and their labels.

    Attributes:
        elements: Atomic numbers that the model knows.
        cutoff: Of the model, in Å.
        reference_energies: Of each element, in eV.
        scales: Of the errors of each element.
    """

    elements: tuple[int, ...]
    cutoff: float
    reference_energies: NDArray[np.float64]
    scales: NDArray[np.float64]

    def sample(self, groups: Sequence[Group], table: Table) -> Sample:
        """Return all systems of the groups in one table."""
        examples = [example for group in groups for example in group]
        batch = to_batch(examples, self.cutoff)
        n_padding = table.n_atoms - batch.n_atoms
        index, offsets, reverse = tabulate(batch, self.cutoff, table.n_neighbors, n_padding)
        place = {z: kind for kind, z in enumerate(self.elements)}
        kinds = np.array([place[int(z)] for example in examples for z in example.numbers])
        references = [self.reference_energies[[place[int(z)] for z in f.numbers]] for f in examples]
        energies = [
            f.get_potential_energy() - r.sum() for f, r in zip(examples, references, strict=True)
        ]
        membership = torch.zeros(table.n_systems, table.n_atoms)
        membership[batch.system_index, torch.arange(batch.n_atoms)] = 1.0
        return Sample(
            kinds=_padded(kinds, table.n_atoms),
            positions=_padded(batch.positions.numpy(), table.n_atoms).float(),
            index=index,
            offsets=offsets.float(),
            reverse=reverse,
            membership=membership,
            energy_labels=_padded(np.array(energies), table.n_systems).float(),
            force_labels=_padded(
                np.concatenate([example.get_forces() for example in examples]), table.n_atoms
            ).float(),
            strain_gradient_labels=_padded(
                np.stack([strain_gradient(example) for example in examples]), table.n_systems
            ).float(),
            error_weights=_padded(self.scales[kinds], table.n_atoms).float(),
            twin=twins(groups, table.n_atoms),
        )


def twins(groups: Sequence[Group], n_atoms: int) -> Tensor:
    """Return the `twin` of a `Sample` for groups one behind the other."""
    twin = torch.arange(n_atoms)
    first = 0
    for group in groups:
        n = len(group[0])
        if len(group) == 2:
            twin[first : first + 2 * n] = torch.arange(first, first + 2 * n).roll(n)
        first += len(group) * n
    return twin


def _padded(values: NDArray[Any], length: int) -> Tensor:
    """Return the values with zeros behind them."""
    padding = np.zeros((length - len(values), *values.shape[1:]), dtype=values.dtype)
    return torch.from_numpy(np.concatenate([values, padding]))


def strain_gradient(example: ase.Atoms) -> NDArray[np.float64]:
    """Return volume times stress, shape [3, 3], in eV; NaN if the frame has no stress."""
    if example.calc is None or "stress" not in example.calc.results:
        return np.full((3, 3), np.nan)
    gradient: NDArray[np.float64] = example.get_volume() * example.get_stress(voigt=False)
    return gradient


def to_batch(examples: Sequence[ase.Atoms], cutoff: float) -> Batch:
    """Return frames as one batch, in float64."""
    systems = [System(f.numbers, f.positions, f.cell.array, f.pbc) for f in examples]
    return Batch.from_systems(systems, cutoff, dtype=torch.float64)


def max_neighbors(example: ase.Atoms, cutoff: float) -> int:
    """Return how many neighbors the most crowded atom has."""
    return int(neighbor_counts(to_batch([example], cutoff)).max())


def tabulate(
    batch: Batch, cutoff: float, width: int, n_padding: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `index`, `offsets` and `reverse` of a `Sample` for the pairs of a batch.

    Args:
        batch: Of one system or more.
        cutoff: In Å.
        width: Entries per atom: as many as the most crowded one has neighbors, or more.
        n_padding: Atoms without neighbors, behind the others.
    """
    n = batch.n_atoms + n_padding
    i, j = batch.pairs
    entry = places_in_table(batch, width)
    index = torch.arange(n).repeat_interleave(width)
    index[entry] = j
    offsets = torch.zeros(n * width, 3, dtype=batch.positions.dtype)
    offsets[:, 0] = cutoff
    offsets[entry] = (batch.shifts[:, None] @ batch.cells[batch.system_index[i]])[:, 0]
    reverse = torch.arange(n * width)
    reverse[entry] = entry[reverse_pairs(batch)]
    return index.view(n, width), offsets.view(n, width, 3), reverse


def reverse_pairs(batch: Batch) -> Tensor:
    """Return for each pair i -> j the place of the pair j -> i with the opposite shift."""
    i, j = batch.pairs.numpy()
    shifts = batch.shifts.numpy().round().astype(np.int64)
    forward = np.lexsort((*shifts.T, j, i))
    backward = np.lexsort((*-shifts.T, i, j))
    reverse = np.empty(len(i), dtype=np.int64)
    reverse[forward] = backward
    return torch.from_numpy(reverse)
