"""Labeled systems, and samples of them in which neighbors are laid out as a table."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.potentials.hybrid_net.potential import neighbor_counts, places_in_table
from twinforce_models.training.config import Recipe, TableShape
from twinforce_proto import System

# A labeled system, or a labeled system and its twin: the same atoms a few fs later.
Group = tuple[ase.Atoms, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One or more labeled systems, which a training step evaluates together.

    Padding reduces the number of shapes: atoms without neighbors that belong to no system, and
    systems without atoms.

    Attributes:
        kinds: Index of each atom's element in the elements of the model. Shape [n_atoms].
        index: Neighbor in each entry of the table; for padding, the atom itself. Shape
            [n_atoms, k].
        vectors: From each atom to its neighbors; for padding, a vector as long as the cutoff.
            Shape [n_atoms, k, 3], in Å.
        reverse: Entry of the flat table that holds the same pair from its other atom. Shape
            [n_atoms * k].
        membership: 1 if an atom belongs to a system, else 0. Shape [n_systems, n_atoms].
        energy_labels: Energies without the reference energies of the elements. Shape [n_systems],
            in eV.
        force_labels: Shape [n_atoms, 3], in eV/Å.
        strain_gradient_labels: Volume times stress; NaN where the data have no stress. Shape
            [n_systems, 3, 3], in eV.
        error_weights: Weight of the errors of each atom. Shape [n_atoms].
        twin: Index of the same atom in the twin of its system; its own index if there is no twin.
            Shape [n_atoms].
    """

    kinds: Tensor
    index: Tensor
    vectors: Tensor
    reverse: Tensor
    membership: Tensor
    energy_labels: Tensor
    force_labels: Tensor
    strain_gradient_labels: Tensor
    error_weights: Tensor
    twin: Tensor

    @property
    def shape(self) -> TableShape:
        """The shape of the table; samples of the same shape share a compiled step."""
        n_systems, n_atoms = self.membership.shape
        return TableShape(n_atoms, self.index.shape[1], n_systems)

    def per_system(self, values: Tensor) -> Tensor:
        """Return the mean of `values` [n_atoms] over each system; 0 for a system without atoms."""
        return self.membership @ values / self.membership.sum(1).clamp(min=1.0)


def read_examples(path: Path) -> list[ase.Atoms]:
    """Read an extended XYZ file, or all of them in a folder in the order of their names.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If an example has no energy or no forces.
    """
    files = sorted(path.glob("*.xyz")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise FileNotFoundError(f"expected an extended XYZ file, or a folder of them, at {path}")
    examples = [example for file in files for example in ase.io.read(file, ":")]
    for n, example in enumerate(examples):
        labels = {} if example.calc is None else example.calc.results
        if missing := {"energy", "forces"} - labels.keys():
            raise ValueError(
                f"system {n} at {path}: expected energy and forces among its labels, got none for "
                f"{' and '.join(sorted(missing))}"
            )
    return examples


def with_stress_offsets(
    examples: Sequence[ase.Atoms], elements: Sequence[int], offsets: Sequence[float]
) -> list[ase.Atoms]:
    """Return the examples with the offsets subtracted from the labels of the stress.

    Args:
        examples: Labeled systems; those without a stress, and all without offsets, are unchanged.
        elements: Atomic numbers of the offsets.
        offsets: Volume times stress per atom of each element, in eV.
    """
    if not any(offsets):
        return list(examples)
    of_element = np.zeros(max(elements) + 1)
    of_element[list(elements)] = offsets
    changed = []
    for example in examples:
        labels = dict(example.calc.results)
        if "stress" in labels:
            excess = of_element[example.numbers].sum() / example.get_volume()
            labels["stress"] = labels["stress"] - excess * np.array([1.0, 1, 1, 0, 0, 0])
            example = example.copy()
            example.calc = SinglePointCalculator(example, **labels)
        changed.append(example)
    return changed


def data_sha256(examples: Sequence[ase.Atoms], keys: Sequence[str] = ()) -> str:
    """Return a hash of the examples, their labels and their `info` of the keys, in this order."""
    digest = hashlib.sha256()
    for example in examples:
        if keys:
            digest.update(repr([str(example.info.get(key)) for key in keys]).encode())
        labels = [np.array([example.get_potential_energy()]), example.get_forces()]
        if "stress" in example.calc.results:
            labels.append(example.get_stress())
        for array in (example.numbers, example.positions, example.cell.array, *labels):
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
    return digest.hexdigest()


def split_examples(
    examples: Sequence[ase.Atoms], recipe: Recipe
) -> tuple[list[ase.Atoms], list[ase.Atoms]]:
    """Return the training examples and the test examples.

    Raises:
        ValueError: If an example has no valid value for the recipe's `split_key`.
    """
    if recipe.split_key:
        parts: dict[str, list[ase.Atoms]] = {"train": [], "test": []}
        for n, example in enumerate(examples):
            part = example.info.get(recipe.split_key)
            if part not in parts:
                raise ValueError(
                    f"system {n}: info[{recipe.split_key!r}]: expected 'train' or 'test', "
                    f"got {part!r}"
                )
            parts[part].append(example)
        return parts["train"], parts["test"]
    order = np.random.default_rng(recipe.seed).permutation(len(examples))
    n_test = round(recipe.test_fraction * len(examples))
    return [examples[i] for i in sorted(order[n_test:])], [
        examples[i] for i in sorted(order[:n_test])
    ]


def group_examples(examples: Sequence[ase.Atoms], recipe: Recipe) -> list[Group]:
    """Return the examples with their twins; each is a group of its own if the recipe has no key.

    Raises:
        ValueError: If an example has no valid value for the recipe's `group_key`, or if examples
            with the same value are more than two, are not adjacent, differ in their atoms, or lie
            in different parts.
    """
    if not recipe.group_key:
        return [(example,) for example in examples]
    groups: dict[int, list[int]] = {}
    for n, example in enumerate(examples):
        value = example.info.get(recipe.group_key)
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise ValueError(
                f"system {n}: info[{recipe.group_key!r}]: expected an integer, got {value!r}"
            )
        groups.setdefault(int(value), []).append(n)
    for value, members in groups.items():
        if problem := _problem_of(members, [examples[n] for n in members], recipe.split_key):
            raise ValueError(f"info[{recipe.group_key!r}] = {value}: {problem}")
    return [tuple(examples[n] for n in members) for members in groups.values()]


def _problem_of(members: Sequence[int], group: Sequence[ase.Atoms], split_key: str) -> str | None:
    """Return the reason why examples with these indices are no group, or None."""
    listed = ", ".join(map(str, members))
    if len(group) > 2:
        return (
            f"expected at most two systems, a system and its twin, got {len(group)}: systems "
            f"{listed}"
        )
    if members[-1] - members[0] != len(members) - 1:
        return f"expected adjacent systems, got systems {listed}"
    parts = {each.info.get(split_key) for each in group}
    if len(parts) > 1:
        return f"expected both systems in one part of the data, got systems {listed} in both"
    first, last = group[0], group[-1]
    if not np.array_equal(first.numbers, last.numbers):
        return f"expected the same atoms in both systems, got {first.symbols} and {last.symbols}"
    return None


def fit_reference_energies(
    examples: Sequence[ase.Atoms], elements: Sequence[int]
) -> NDArray[np.float64]:
    """Return the energy per element from a least-squares fit of sums over atoms to the labels.

    Returns:
        Shape [n_elements], in eV; the solution with the smallest norm if it is not unique.
    """
    counts = np.array(
        [[np.sum(example.numbers == z) for z in elements] for example in examples], dtype=float
    )
    energies = np.array([example.get_potential_energy() for example in examples])
    solution: NDArray[np.float64] = np.linalg.lstsq(counts, energies, rcond=None)[0]
    return solution


def error_scales(
    examples: Sequence[ase.Atoms], elements: Sequence[int], balance: float
) -> NDArray[np.float64]:
    """Return the weight of the errors of each element.

    Returns:
        (rms force on all atoms / rms force on atoms of the element) ** balance; 1 for elements that
        the examples lack. Shape [n_elements].
    """
    numbers = np.concatenate([example.numbers for example in examples])
    squares = np.square(np.concatenate([example.get_forces() for example in examples])).mean(axis=1)
    means = [squares[numbers == z].mean() if np.any(numbers == z) else np.nan for z in elements]
    scales: NDArray[np.float64] = (squares.mean() / np.array(means)) ** (balance / 2)
    return np.nan_to_num(scales, nan=1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Tabulator:
    """A converter of labeled systems to samples in float32.

    Attributes:
        elements: Atomic numbers that the model supports.
        cutoff: Cutoff radius of the model, in Å.
        reference_energies: Reference energy of each element, in eV.
        scales: Weight of the errors of each element.
    """

    elements: tuple[int, ...]
    cutoff: float
    reference_energies: NDArray[np.float64]
    scales: NDArray[np.float64]

    def sample(self, groups: Sequence[Group], table: TableShape) -> Sample:
        """Return all systems of the groups as a sample of the given shape."""
        examples = [example for group in groups for example in group]
        batch = to_batch(examples, self.cutoff)
        n_padding = table.n_atoms - batch.n_atoms
        index, vectors, reverse = tabulate(batch, self.cutoff, table.n_neighbors, n_padding)
        kind_of = {z: kind for kind, z in enumerate(self.elements)}
        kinds = np.array([kind_of[int(z)] for example in examples for z in example.numbers])
        references = [
            self.reference_energies[[kind_of[int(z)] for z in example.numbers]].sum()
            for example in examples
        ]
        energies = [
            example.get_potential_energy() - reference
            for example, reference in zip(examples, references, strict=True)
        ]
        membership = torch.zeros(table.n_systems, table.n_atoms)
        membership[batch.system_index, torch.arange(batch.n_atoms)] = 1.0
        return Sample(
            kinds=_padded(kinds, table.n_atoms),
            index=index,
            vectors=vectors.float(),
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
    """Return the attribute `twin` of a `Sample` that holds these groups in order."""
    twin = torch.arange(n_atoms)
    first = 0
    for group in groups:
        n = len(group[0])
        if len(group) == 2:
            twin[first : first + 2 * n] = torch.arange(first, first + 2 * n).roll(n)
        first += len(group) * n
    return twin


def _padded(values: NDArray[Any], length: int) -> Tensor:
    """Return the values with zeros appended up to a length."""
    padding = np.zeros((length - len(values), *values.shape[1:]), dtype=values.dtype)
    return torch.from_numpy(np.concatenate([values, padding]))


def strain_gradient(example: ase.Atoms) -> NDArray[np.float64]:
    """Return volume times stress, shape [3, 3], in eV; NaN if the example has no stress."""
    if example.calc is None or "stress" not in example.calc.results:
        return np.full((3, 3), np.nan)
    gradient: NDArray[np.float64] = example.get_volume() * example.get_stress(voigt=False)
    return gradient


def to_batch(examples: Sequence[ase.Atoms], cutoff: float) -> Batch:
    """Return examples as a batch in float64."""
    return Batch.from_systems([*map(to_system, examples)], cutoff, dtype=torch.float64)


def to_system(example: ase.Atoms) -> System:
    """Return an example as a system."""
    return System(example.numbers, example.positions, example.cell.array, example.pbc)


def max_neighbors(example: ase.Atoms, cutoff: float) -> int:
    """Return the largest number of neighbors of an atom."""
    return int(neighbor_counts(to_batch([example], cutoff)).max())


def tabulate(
    batch: Batch, cutoff: float, width: int, n_padding: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `index`, `vectors` and `reverse` of a `Sample` for the pairs of a batch.

    Args:
        batch: Batch of one or more systems.
        cutoff: Cutoff radius, in Å.
        width: Number of entries per atom; at least the largest number of neighbors.
        n_padding: Number of atoms without neighbors that are appended.
    """
    n = batch.n_atoms + n_padding
    entry = places_in_table(batch, width)
    index = torch.arange(n).repeat_interleave(width)
    index[entry] = batch.pairs[1]
    vectors = torch.zeros(n * width, 3, dtype=batch.dtype)
    vectors[:, 0] = cutoff
    vectors[entry] = batch.displacements()
    reverse = torch.arange(n * width)
    reverse[entry] = entry[reverse_pairs(batch)]
    return index.view(n, width), vectors.view(n, width, 3), reverse


def reverse_pairs(batch: Batch) -> Tensor:
    """Return, for each pair i -> j, the index of the pair j -> i with the opposite shift."""
    i, j = batch.pairs.numpy()
    shifts = batch.shifts.numpy().round().astype(np.int64)
    forward = np.lexsort((*shifts.T, j, i))
    backward = np.lexsort((*-shifts.T, i, j))
    reverse = np.empty(len(i), dtype=np.int64)
    reverse[forward] = backward
    return torch.from_numpy(reverse)
