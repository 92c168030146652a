"""Predictions by way of tables, with no operation per system on the way to the device."""

import logging
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twinforce_models.conventions import split_by_system, symmetric_stress, without_net_force
from twinforce_models.neighbors.folding import Floats, Geometry, fold
from twinforce_models.potential import Potential
from twinforce_models.tables.capacity import NeighborCapacity
from twinforce_models.tables.layout import Size, Staging, reach_of, size_for
from twinforce_models.tables.replay import Evaluate, Recording, run_unrecorded
from twinforce_models.tables.search import search
from twinforce_models.tables.table import (
    MAX_SHIFT,
    AtomValues,
    Places,
    Tabular,
    Wanted,
    as_tabular,
)
from twinforce_proto import STRESSES, Prediction, System, needs_autograd
from twinforce_proto.outputs import DIRECT_OUTPUTS

logger = logging.getLogger(__name__)

MAX_RECORDED_ATOMS = 8192
"""Largest batch that is recorded; in larger ones, kernels run longer than their launch takes."""

_MAX_RECORDINGS = 128
_MAX_SYSTEM = 50_000
"""Largest number of atoms of a system; beyond, comparing all pairs of atoms takes too long."""

_MAX_TESTS = 10**10
"""Largest number of tests in a search; beyond, as in very skewed cells, it takes too long."""

_LANES = 128
_HEADER = 2
_STRAIN_GRADIENTS = {
    "conservative_stress": "strain_gradients",
    "direct_stress": "direct_strain_gradients",
}


class TablePredictor:
    """Evaluates systems with a `Tabular` potential; not thread-safe.

    Args:
        potential: The potential to evaluate.
        max_entries: Largest number of atoms times neighbors of a table.

    Attributes:
        n_recordings: Number of evaluations that have been recorded.
        n_padding: Number of places for atoms that were evaluated empty.
    """

    def __init__(self, potential: Potential, max_entries: int = 2**26) -> None:
        self._potential = potential
        self._max_entries = max_entries
        self._capacity = NeighborCapacity()
        self._recordings: OrderedDict[Hashable, Recording | None] = OrderedDict()
        self._sizes_seen: set[Hashable] = set()
        self._pool: Any = None
        self.n_recordings = self.n_padding = 0

    def predict(
        self, systems: Sequence[System], outputs: frozenset[str]
    ) -> list[Prediction] | None:
        """Evaluate systems together, without checking that the potential supports them.

        Args:
            systems: At least one system.
            outputs: Names of `OUTPUTS` that the potential has.

        Returns:
            None if the systems must be evaluated without tables: the potential is not `Tabular` at
            present, or systems are too large, too dense, or much smaller than the cutoff.
        """
        tabular = as_tabular(self._potential)
        if tabular is None or max(map(len, systems)) > _MAX_SYSTEM:
            return None
        geometry = fold(systems, self._potential.cutoff)
        reach = reach_of(geometry.periods, self._potential.cutoff)
        if reach.max() >= MAX_SHIFT or _n_tests(geometry, reach) > _MAX_TESTS:
            return None  # folding may add one cell to a shift
        values = self._evaluate_atoms(tabular, systems, geometry, reach, outputs)
        return None if values is None else _predictions(values, geometry, outputs)

    def forget(self) -> None:
        """Release the memory of all recordings; sizes that occur again are recorded again."""
        self._recordings.clear()
        self._pool = None

    def _evaluate_atoms(
        self,
        tabular: Tabular,
        systems: Sequence[System],
        geometry: Geometry,
        reach: NDArray[np.int32],
        outputs: frozenset[str],
    ) -> dict[str, NDArray[Any]] | None:
        """Return the results per atom, repeating the evaluation until all neighbors fit."""
        size = size_for(len(geometry.positions), len(systems))
        wanted = Wanted(
            energy=not outputs <= DIRECT_OUTPUTS,
            gradient=needs_autograd(outputs),
            direct=not outputs.isdisjoint(DIRECT_OUTPUTS),
        )
        while True:
            width, max_seen = self._capacity.listed, self._capacity.seen
            if size.n_atoms * max(width, max_seen) > self._max_entries:
                self._capacity.reset()
                return None
            evaluate = partial(_evaluate, self._potential, tabular, wanted, width, max_seen)
            key = size, wanted, width, max_seen, tabular.table_variant
            flat = self._run(key, evaluate, size, (systems, geometry, reach))
            if self._capacity.fits_or_grows(int(flat[0]), int(flat[1])):
                self.n_padding += size.n_atoms - len(geometry.positions)
                return _unflatten(flat, size, wanted, len(geometry.positions))

    def _run(
        self, key: Hashable, evaluate: Evaluate, size: Size, batch: tuple[Any, ...]
    ) -> NDArray[Any]:
        p = self._potential
        recording: Recording | None = None
        if p.device.type == "cuda" and size.n_atoms <= MAX_RECORDED_ATOMS:
            recording = self._recording(key, evaluate, size, batch)
        if recording is None:
            staging = Staging(size, p.device)
            staging.fill(*batch)
            return run_unrecorded(evaluate, staging)
        recording.staging.fill(*batch)
        return recording.run()

    def _recording(
        self, key: Hashable, evaluate: Evaluate, size: Size, batch: tuple[Any, ...]
    ) -> Recording | None:
        """Return the recording of a size that occurred before; None for the first occurrence."""
        if key in self._recordings:
            self._recordings.move_to_end(key)
            return self._recordings[key]
        if key in self._sizes_seen:
            return self._record(key, evaluate, size, batch)
        self._sizes_seen.add(key)
        return None

    def _record(
        self, key: Hashable, evaluate: Evaluate, size: Size, batch: tuple[Any, ...]
    ) -> Recording | None:
        """Record an evaluation; None, also for later batches, if recording fails."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        staging = Staging(size, self._potential.device)
        staging.fill(*batch)
        recording: Recording | None = None
        try:
            recording = Recording(evaluate, staging, self._pool)
            self.n_recordings += 1
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            logger.warning("cannot record batches of %d atoms: %s", size.n_atoms, error)
        self._recordings[key] = recording
        if len(self._recordings) > _MAX_RECORDINGS:
            self._recordings.popitem(last=False)
        return recording


def _n_tests(geometry: Geometry, reach: NDArray[np.int32]) -> float:
    """Return the number of atoms and images that a search tests, at least `_LANES` per atom."""
    sizes = np.asarray(geometry.n_atoms_per_system, dtype=float)
    images = np.prod(2.0 * reach + 1.0, axis=1)
    return float((sizes * np.maximum(sizes, _LANES) * images).sum())


def _evaluate(
    potential: Potential,
    tabular: Tabular,
    wanted: Wanted,
    width: int,
    max_seen: int,
    places: Places,
) -> Tensor:
    """Return the required capacities and all results per atom, as one flat tensor."""
    with torch.no_grad():
        table = search(places, potential.cutoff, width, potential.dtype)
        values = tabular.evaluate_table(table, wanted, max_seen)
        return _flatten(values, wanted, table.counts, potential.dtype)


def _flatten(values: AtomValues, wanted: Wanted, counts: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the required capacities and the requested results, in a fixed order."""
    most = counts.max()
    n_seen = torch.zeros_like(most) if values.n_seen is None else values.n_seen
    parts = [torch.stack([most, n_seen.to(most.dtype)]).to(dtype)]
    if wanted.energy:
        assert values.energies is not None
        parts.append(values.energies.to(torch.float64).view(dtype))
    parts += [getattr(values, name).reshape(-1) for name in _forces_and_strains(wanted)]
    return torch.cat(parts)


def _forces_and_strains(wanted: Wanted) -> list[str]:
    gradient = ["conservative_forces", "strain_gradients"] if wanted.gradient else []
    direct = ["direct_forces", "direct_strain_gradients"] if wanted.direct else []
    return gradient + direct


def _unflatten(
    flat: NDArray[Any], size: Size, wanted: Wanted, n_atoms: int
) -> dict[str, NDArray[Any]]:
    """Return the parts that `_flatten` joined, in float64, without the padding."""
    values: dict[str, NDArray[Any]] = {}
    start, n = _HEADER, size.n_atoms
    if wanted.energy:
        stop = start + n * 8 // flat.itemsize
        values["energies"] = flat[start:stop].view(np.float64)[:n_atoms].copy()
        start = stop
    for name in _forces_and_strains(wanted):
        shape = (n, 3) if name.endswith("forces") else (n, 3, 3)
        stop = start + int(np.prod(shape))
        values[name] = flat[start:stop].reshape(shape)[:n_atoms].astype(np.float64)
        start = stop
    return values


class _HostSums:
    """Sums over the atoms of each system, in numpy; the counterpart of those of a `Batch`."""

    def __init__(self, n_atoms_per_system: Sequence[int]) -> None:
        self._sizes = np.asarray(n_atoms_per_system)
        self._starts = np.cumsum(self._sizes) - self._sizes

    def sum_over_atoms(self, values: Floats) -> Floats:
        return np.add.reduceat(values, self._starts)

    def mean_over_atoms(self, values: Floats) -> Floats:
        mean: Floats = self.sum_over_atoms(values) / self._sizes[:, None]
        return mean

    def to_atoms(self, values: Floats) -> Floats:
        return np.repeat(values, self._sizes, axis=0)


def _predictions(
    values: dict[str, NDArray[Any]], geometry: Geometry, outputs: frozenset[str]
) -> list[Prediction]:
    """Return the outputs of each system; sums over its atoms are taken here, in float64."""
    sums = _HostSums(geometry.n_atoms_per_system)
    results: dict[str, Floats] = {}
    if "energy" in outputs:
        results["energy"] = sums.sum_over_atoms(values["energies"])
    if "atom_energies" in outputs:
        results["atom_energies"] = values["energies"]
    if "conservative_forces" in outputs:
        results["conservative_forces"] = values["conservative_forces"]
    if "direct_forces" in outputs:
        results["direct_forces"] = without_net_force(values["direct_forces"], sums)
    if stresses := outputs & STRESSES:
        volumes = np.abs(np.linalg.det(geometry.cells))
        for name in stresses:
            strain_gradients = sums.sum_over_atoms(values[_STRAIN_GRADIENTS[name]])
            results[name] = symmetric_stress(strain_gradients, volumes)
    return split_by_system(results, geometry.n_atoms_per_system)
