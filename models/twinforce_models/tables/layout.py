"""Memory layout of a batch: one block of memory on the host, and a copy of it on the device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from twinforce_models.batch import Arrays, packed_size, unpack
from twinforce_models.neighbors.folding import Geometry, face_distances, inverted
from twinforce_models.tables.table import MAX_SHIFT, Places
from twinforce_proto import System

_ATOMS_PER_SYSTEM = 4
"""Smallest average number of atoms per system; batches of smaller systems get more padding."""

_SMALLEST = 32
_SLACK = 1e-3


@dataclass(frozen=True, slots=True)
class Size:
    """Capacity for a batch.

    Attributes:
        n_atoms: Number of atoms, including padding.
        n_systems: Number of systems, including one for the padding.
    """

    n_atoms: int
    n_systems: int


def size_for(n_atoms: int, n_systems: int) -> Size:
    """Return the smallest capacity for these numbers; there are four sizes per doubling."""
    needed = max(n_atoms, _ATOMS_PER_SYSTEM * (n_systems + 1), _SMALLEST)
    step = max(_SMALLEST, 2 ** (needed - 1).bit_length() // 8)
    rounded = -(-needed // step) * step
    return Size(rounded, rounded // _ATOMS_PER_SYSTEM)


def reach_of(cells: NDArray[np.float64], cutoff: float) -> NDArray[np.int32]:
    """Return how many cells beyond the nearest image a neighbor may be, shape [n_systems, 3].

    Args:
        cells: Rows are lattice vectors, shape [n_systems, 3, 3], in Å.
        cutoff: In Å.
    """
    reach = np.floor(cutoff / face_distances(cells) + 0.5 + _SLACK)
    return np.minimum(reach, 2 * MAX_SHIFT).astype(np.int32)


class Staging:
    """A block of memory on the host with a copy on the device; on a CPU, both are the same block.

    Args:
        size: Capacity of the block.
        device: Device of the copy.

    Attributes:
        places: Views of the copy.
    """

    def __init__(self, size: Size, device: torch.device) -> None:
        is_cuda = device.type == "cuda"
        like = _arrays_like(size)
        self._here = torch.zeros(packed_size(like), dtype=torch.uint8, pin_memory=is_cuda)
        self._there = torch.zeros_like(self._here, device=device) if is_cuda else self._here
        self.places = Places(**unpack(self._there, like))
        self._arrays = {name: view.numpy() for name, view in unpack(self._here, like).items()}

    def fill(self, systems: Sequence[System], geometry: Geometry, reach: NDArray[np.int32]) -> None:
        """Write systems into the block; the rest of it becomes padding.

        Args:
            systems: Systems whose atoms fit into the block.
            geometry: The folded systems.
            reach: The result of `reach_of` for them.
        """
        arrays, n_systems = self._arrays, len(systems)
        n_atoms = len(geometry.positions)
        stops = np.cumsum(geometry.n_atoms_per_system)
        np.concatenate(
            [system.atomic_numbers for system in systems], out=arrays["atomic_numbers"][:n_atoms]
        )
        arrays["atomic_numbers"][n_atoms:] = arrays["atomic_numbers"][0]
        arrays["positions"][:n_atoms] = geometry.positions
        arrays["positions"][n_atoms:] = 0.0
        arrays["owner"][:n_atoms] = np.repeat(np.arange(n_systems), geometry.n_atoms_per_system)
        arrays["owner"][n_atoms:] = n_systems
        arrays["first"][:n_systems] = stops - geometry.n_atoms_per_system
        arrays["stop"][:n_systems] = stops
        arrays["cells"][:n_systems] = geometry.periods
        arrays["inverses"][:n_systems] = inverted(geometry.periods)
        arrays["reach"][:n_systems] = reach
        for name in ("first", "stop", "cells", "inverses", "reach"):
            arrays[name][n_systems] = 0

    def send(self) -> None:
        """Start copying the block to the device; the copy may not have finished on return."""
        if self._there is not self._here:
            self._there.copy_(self._here, non_blocking=True)


def _arrays_like(size: Size) -> Arrays:
    """Return uninitialized arrays with the shapes and dtypes of the layout."""
    n, m = size.n_atoms, size.n_systems
    return {
        "atomic_numbers": np.empty(n, np.int64),
        "positions": np.empty((n, 3)),
        "owner": np.empty(n, np.int32),
        "first": np.empty(m, np.int32),
        "stop": np.empty(m, np.int32),
        "cells": np.empty((m, 3, 3)),
        "inverses": np.empty((m, 3, 3)),
        "reach": np.empty((m, 3), np.int32),
    }
