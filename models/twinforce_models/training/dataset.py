"""Labelled systems, read once, with their neighbors laid out as tables of one width."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ase
import ase.io
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.potentials.hybrid_net import neighbor_counts, places_in_table
from twinforce_proto import System


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One labelled system.

    Attributes:
        kinds: Place of each atom's element within the model's elements. Shape [n_atoms].
        positions: Shape [n_atoms, 3], in Å.
        index: Neighbor of each entry of the table; padding points at the atom itself. Shape
            [n_atoms, k].
        offsets: Periodic shift of each neighbor; of padding, a vector as long as the cutoff.
            Shape [n_atoms, k, 3], in Å.
        reverse: Entry of the flat table that holds the same pair seen from its other atom.
            Shape [n_atoms * k].
        energy_label: Without the elements' reference energies, in eV.
        force_labels: Shape [n_atoms, 3], in eV/Å.
    """

    kinds: Tensor
    positions: Tensor
    index: Tensor
    offsets: Tensor
    reverse: Tensor
    energy_label: Tensor
    force_labels: Tensor

    def vectors(self) -> Tensor:
        """Return the vectors from each atom to its neighbors, shape [n_atoms, k, 3], in Å."""
        return self.positions[self.index] - self.positions[:, None] + self.offsets


def read_frames(path: Path) -> list[ase.Atoms]:
    """Read every extended XYZ file under `path`, in order of name.

    Raises:
        FileNotFoundError: If there is none.
    """
    files = sorted(path.glob("*.xyz")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise FileNotFoundError(f"no .xyz file at {path}")
    return [frame for file in files for frame in ase.io.read(file, ":")]


def data_sha256(frames: Sequence[ase.Atoms]) -> str:
    """Return a hash of the frames and their labels, in this order."""
    digest = hashlib.sha256()
    for frame in frames:
        labels = [np.array([frame.get_potential_energy()]), frame.get_forces()]
        for array in (frame.numbers, frame.positions, frame.cell.array, *labels):
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
    return digest.hexdigest()


def split_frames(
    frames: Sequence[ase.Atoms], test_fraction: float, seed: int
) -> tuple[list[ase.Atoms], list[ase.Atoms]]:
    """Return a random part for training, and the rest for testing."""
    order = np.random.default_rng(seed).permutation(len(frames))
    n_test = round(test_fraction * len(frames))
    return [frames[i] for i in sorted(order[n_test:])], [frames[i] for i in sorted(order[:n_test])]


def fit_reference_energies(
    frames: Sequence[ase.Atoms], elements: Sequence[int]
) -> NDArray[np.float64]:
    """Return an energy per element whose sums fit the labels best, the smallest if many do.

    Returns:
        Shape [n_elements], in eV.
    """
    counts = np.array([[np.sum(f.numbers == z) for z in elements] for f in frames], dtype=float)
    energies = np.array([f.get_potential_energy() for f in frames])
    solution: NDArray[np.float64] = np.linalg.lstsq(counts, energies, rcond=None)[0]
    return solution


def make_samples(
    frames: Sequence[ase.Atoms],
    elements: Sequence[int],
    reference_energies: NDArray[np.float64],
    cutoff: float,
    width: int,
) -> list[Sample]:
    """Return samples in float32 whose tables are `width` entries wide: `max_neighbors` or more."""
    place = {z: kind for kind, z in enumerate(elements)}
    samples = []
    for frame in frames:
        kinds = np.array([place[int(z)] for z in frame.numbers])
        batch = to_batch(frame, cutoff)
        index, offsets, reverse = tabulate(batch, cutoff, width)
        energy = frame.get_potential_energy() - reference_energies[kinds].sum()
        samples.append(
            Sample(
                kinds=torch.from_numpy(kinds),
                positions=batch.positions.float(),
                index=index,
                offsets=offsets.float(),
                reverse=reverse,
                energy_label=torch.tensor(energy, dtype=torch.float32),
                force_labels=torch.from_numpy(frame.get_forces()).float(),
            )
        )
    return samples


def to_batch(frame: ase.Atoms, cutoff: float) -> Batch:
    """Return one frame as a batch of its own, in float64."""
    system = System(frame.numbers, frame.positions, frame.cell.array, frame.pbc)
    return Batch.from_systems([system], cutoff, dtype=torch.float64)


def max_neighbors(frames: Sequence[ase.Atoms], cutoff: float) -> int:
    """Return how many neighbors the most crowded atom has."""
    return max(int(neighbor_counts(to_batch(frame, cutoff)).max()) for frame in frames)


def tabulate(batch: Batch, cutoff: float, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return `index`, `offsets` and `reverse` of a `Sample` for the pairs of a batch."""
    n = batch.n_atoms
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
