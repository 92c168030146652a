"""Many systems as one set of flat tensors."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twinforce_models.neighbors.folding import Geometry, fold
from twinforce_models.neighbors.search import can_search_on, search, search_on_device
from twinforce_models.neighbors.walker_lists import WalkerLists
from twinforce_proto import System

Arrays = dict[str, NDArray[Any]]

_SEARCH = ("search_positions", "search_cells", "search_basis")
_ALIGNMENT = 16

_MANY_PAIRS = 150
"""Pairs per system, on average, from which a product per system beats one per pair on a CPU."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The atoms of many systems, concatenated; `system_index` maps each atom to its system.

    Coordinates are float64, whatever a potential computes in: float32 has seven digits for a
    position in the box, and they must not be lost to the size of the box or to a far origin. Only
    `displacements`, which are as short as the cutoff, are rounded. Positions are folded into the
    cell along periodic directions and centered along open ones; no potential may depend on this.

    Attributes:
        dtype: Data type that the potential computes in: that of `displacements` and of `charge`.
        atomic_numbers: Shape [n_atoms].
        positions: Shape [n_atoms, 3], in Å, float64.
        cells: Lattice vectors as rows, shape [n_systems, 3, 3], in Å, float64.
        pbc: Shape [n_systems, 3].
        system_index: Shape [n_atoms], non-decreasing.
        pairs: Center i and neighbor j, shape [2, n_pairs]; a full list, sorted by center.
        shifts: Whole cells by which the neighbor is moved, shape [n_pairs, 3], float64.
        charge: Total charge, shape [n_systems], in e; 0 where the system does not specify it.
        spin_multiplicity: 2S + 1, shape [n_systems]; 1 where the system does not specify it.
        n_atoms_per_system: Number of atoms of each system, on the host.
        n_pairs_per_system: Number of pairs of each system, on the host.
    """

    dtype: torch.dtype
    atomic_numbers: Tensor
    positions: Tensor
    cells: Tensor
    pbc: Tensor
    system_index: Tensor
    pairs: Tensor
    shifts: Tensor
    charge: Tensor
    spin_multiplicity: Tensor
    n_atoms_per_system: tuple[int, ...]
    n_pairs_per_system: tuple[int, ...]

    @classmethod
    def from_systems(
        cls,
        systems: Sequence[System],
        cutoff: float,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        *,
        lists: WalkerLists | None = None,
        walkers: Sequence[Hashable] = (),
    ) -> Batch:
        """Concatenate systems in order, find their neighbors, and copy everything to the device.

        Args:
            systems: At least one system.
            cutoff: Cutoff of the neighbor list, in Å.
            dtype: Data type that the potential computes in.
            device: Target device; it is reached with one copy.
            lists: Neighbor lists kept from earlier steps of walkers; not used if the device itself
                searches for neighbors.
            walkers: With `lists`, the walker of each system; None for a system without one.
        """
        device = torch.device(device)
        if lists is None or not any(walkers) or can_search_on(device):
            lists = None
        geometry = fold(systems, cutoff if lists is None else cutoff + lists.skin)
        arrays = _system_arrays(systems, geometry)
        if can_search_on(device):
            tensors = copy_to_device(arrays | _search_arrays(geometry), device)
            positions, cells, basis = (tensors.pop(name) for name in _SEARCH)
            pairs, shifts, n_pairs = search_on_device(
                positions, cells, basis, geometry.n_atoms_per_system, cutoff
            )
            tensors |= {"pairs": pairs, "shifts": shifts}
        else:
            if lists is None:
                neighbors = search(geometry, cutoff)
            else:
                neighbors = lists.search(geometry, cutoff, walkers)
            n_pairs = neighbors.n_pairs_per_system
            listed = {"pairs": neighbors.pairs, "shifts": neighbors.shifts}
            tensors = copy_to_device(arrays | listed, device)
        tensors["charge"] = tensors["charge"].to(dtype)
        return cls(
            dtype,
            **tensors,
            n_atoms_per_system=geometry.n_atoms_per_system,
            n_pairs_per_system=n_pairs,
        )

    @property
    def n_atoms(self) -> int:
        """Total number of atoms."""
        return len(self.positions)

    @property
    def n_systems(self) -> int:
        """Number of systems."""
        return len(self.n_atoms_per_system)

    @property
    def n_pairs(self) -> int:
        """Total number of pairs."""
        return self.pairs.shape[1]

    @property
    def volumes(self) -> Tensor:
        """Cell volumes, shape [n_systems], in Å³; zero without a cell."""
        volumes: Tensor = torch.linalg.det(self.cells).abs()
        return volumes

    def displacements(self) -> Tensor:
        """Return the vectors from center to neighbor, shape [n_pairs, 3], in Å; differentiable.

        They are subtracted in float64 and returned in `dtype`.
        """
        return self._apart().to(self.dtype)

    def _apart(self) -> Tensor:
        """Return the displacements in float64.

        Uses index_select because the backward pass of advanced indexing is slow on a CPU.
        """
        i, j = self.pairs
        apart = self.positions.index_select(0, j) - self.positions.index_select(0, i)
        return apart + self._offsets()

    def _offsets(self) -> Tensor:
        """Return `shifts` in Å, shape [n_pairs, 3]; differentiable."""
        if self.n_systems == 1:
            return self.shifts @ self.cells[0]
        is_on_cpu = self.shifts.device.type == "cpu"
        if is_on_cpu and self.n_pairs >= _MANY_PAIRS * self.n_systems:
            parts = self.shifts.split(list(self.n_pairs_per_system))
            return torch.cat([s @ cell for s, cell in zip(parts, self.cells.unbind(), strict=True)])
        cells = self.cells.index_select(0, self.system_index.index_select(0, self.pairs[0]))
        if is_on_cpu:  # three times as fast there as the sum
            return torch.bmm(self.shifts.unsqueeze(1), cells).squeeze(1)
        return (self.shifts.unsqueeze(-1) * cells).sum(dim=1)

    def sum_over_pairs(self, values: Tensor) -> Tensor:
        """Return the sums of `values`, shape [n_pairs, ...], over each center's neighbors."""
        total = values.new_zeros(self.n_atoms, *values.shape[1:])
        return total.index_add(0, self.pairs[0], values)

    def sum_over_atoms(self, values: Tensor) -> Tensor:
        """Return the sums of `values`, shape [n_atoms, ...], over each system's atoms, in float64.

        In float32, the sum of many atoms would lose digits that each of them has.
        """
        values = values.to(torch.float64)
        total = values.new_zeros(self.n_systems, *values.shape[1:])
        return total.index_add(0, self.system_index, values)

    def mean_over_atoms(self, values: Tensor) -> Tensor:
        """Return the means of `values`, shape [n_atoms, m], over the atoms of each system."""
        n_atoms = self.sum_over_atoms(torch.ones_like(values[:, :1]))
        return self.sum_over_atoms(values) / n_atoms

    def to_atoms(self, values: Tensor) -> Tensor:
        """Return for each atom its system's entry of `values`, shape [n_systems, ...]."""
        return values.index_select(0, self.system_index)

    def at(self, positions: Tensor) -> Batch:
        """Return the batch with other positions and the same pairs."""
        return replace(self, positions=positions)

    def within(self, cutoff: float) -> Batch:
        """Return the batch with only the pairs that are closer than `cutoff`, in Å."""
        with torch.no_grad():
            squared = self._apart().square().sum(dim=1)
            near = (squared < cutoff * cutoff).nonzero().squeeze(1)
        pairs = self.pairs.index_select(1, near)
        owner = self.system_index.index_select(0, pairs[0])
        n_pairs = torch.bincount(owner, minlength=self.n_systems).tolist()
        shifts = self.shifts.index_select(0, near)
        return replace(self, pairs=pairs, shifts=shifts, n_pairs_per_system=tuple(n_pairs))

    def strained(self, strain: Tensor) -> Batch:
        """Return the batch deformed: r' = r (1 + ε), h' = h (1 + ε), rows as vectors.

        Args:
            strain: ε of each system, shape [n_systems, 3, 3].
        """
        per_atom = torch.einsum("ni,nij->nj", self.positions, self.to_atoms(strain))
        cells = self.cells + self.cells @ strain
        return replace(self, positions=self.positions + per_atom, cells=cells)


def _system_arrays(systems: Sequence[System], geometry: Geometry) -> Arrays:
    n_atoms = geometry.n_atoms_per_system
    if len(systems) == 1:  # a fast path for the most frequent case
        numbers, index = systems[0].atomic_numbers, np.zeros(n_atoms, dtype=np.int64)
    else:
        numbers = np.concatenate([system.atomic_numbers for system in systems])
        index = np.repeat(np.arange(len(systems), dtype=np.int64), n_atoms)
    return {
        "atomic_numbers": numbers.astype(np.int64),
        "positions": geometry.positions.copy(),
        "cells": geometry.cells.copy(),
        "pbc": geometry.pbc.copy(),
        "system_index": index,
        "charge": np.array([system.charge or 0.0 for system in systems]),
        "spin_multiplicity": np.array([system.spin_multiplicity or 1 for system in systems]),
    }


def _search_arrays(geometry: Geometry) -> Arrays:
    return {name: getattr(geometry, name) for name in _SEARCH}


def copy_to_device(arrays: Arrays, device: torch.device) -> dict[str, Tensor]:
    """Return the arrays as tensors on the device, transferred in one copy.

    On the CPU, the tensors share memory with the arrays.
    """
    if device.type == "cpu":
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    packed = pack(arrays).pin_memory().to(device, non_blocking=True)
    return unpack(packed, arrays)


def pack(arrays: Arrays) -> Tensor:
    """Return one tensor that holds the bytes of all arrays, each at an aligned offset."""
    packed = np.zeros(packed_size(arrays), dtype=np.uint8)
    start = 0
    for array in arrays.values():
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        packed[start : start + array.nbytes] = flat
        start += _aligned(array.nbytes)
    return torch.from_numpy(packed)


def packed_size(arrays: Arrays) -> int:
    """Return the number of bytes that `pack` needs for the arrays."""
    return sum(_aligned(array.nbytes) for array in arrays.values())


def unpack(packed: Tensor, arrays: Arrays) -> dict[str, Tensor]:
    """Return views of `packed` with the dtypes and shapes of the arrays packed into it."""
    views, start = {}, 0
    for name, array in arrays.items():
        dtype = torch.from_numpy(np.empty(0, dtype=array.dtype)).dtype
        view = packed[start : start + array.nbytes].view(dtype)
        views[name] = view.reshape(array.shape)
        start += _aligned(array.nbytes)
    return views


def reversed_pairs(centers: Tensor, neighbors: Tensor, shifts: Tensor) -> Tensor:
    """Return the reverse index: for each pair, the index of the same pair seen from its other end.

    Both directions are sorted by the same key; the n-th entries of the two orders belong together.

    Args:
        centers: Shape [n_pairs].
        neighbors: Shape [n_pairs]; each pair must be listed from both ends.
        shifts: Shape [n_pairs, 3], whole numbers of any dtype.
    """
    if not len(centers):
        return centers
    shifts = shifts.round().to(torch.int64)
    reach = int(shifts.abs().max())
    size, n_atoms = 2 * reach + 1, int(centers.max()) + 1

    def key(i: Tensor, j: Tensor, shift: Tensor) -> Tensor:
        x, y, z = (shift + reach).unbind(1)
        return (((i * n_atoms + j) * size + x) * size + y) * size + z

    reverse = torch.empty_like(centers)
    order = key(centers, neighbors, shifts).argsort()
    reverse[order] = key(neighbors, centers, -shifts).argsort()
    return reverse


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT
