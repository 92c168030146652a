"""Where a batch lies: on the host, as one piece of memory, and on the device, as a copy of it."""

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
"""How few atoms systems may have on average; where they have fewer, there is more padding."""

_SMALLEST = 32
_SLACK = 1e-3


@dataclass(frozen=True, slots=True)
class Size:
    """Room for a batch.

    Attributes:
        n_atoms: Padding and all.
        n_systems: Likewise; one of them is that of the padding.
    """

    n_atoms: int
    n_systems: int


def size_for(n_atoms: int, n_systems: int) -> Size:
    """Return the smallest room for so many atoms and systems: one of four sizes per doubling."""
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
    """A piece of memory on the host with a copy on the device; on a CPU both are one.

    Args:
        size: Room in it.
        dtype: Of what is real.
        device: Where the copy is.

    Attributes:
        places: The copy.
    """

    def __init__(self, size: Size, dtype: torch.dtype, device: torch.device) -> None:
        is_cuda = device.type == "cuda"
        like = _arrays_like(size, np.float64 if dtype == torch.float64 else np.float32)
        self._here = torch.zeros(packed_size(like), dtype=torch.uint8, pin_memory=is_cuda)
        self._there = torch.zeros_like(self._here, device=device) if is_cuda else self._here
        self.places = Places(**unpack(self._there, like))
        self._arrays = {name: view.numpy() for name, view in unpack(self._here, like).items()}

    def fill(self, systems: Sequence[System], geometry: Geometry, reach: NDArray[np.int32]) -> None:
        """Lay systems out; what is left over becomes padding.

        Args:
            systems: Whose atoms fit.
            geometry: Of them, folded but not compact.
            reach: What `reach_of` gives for it.
        """
        arrays, n_systems = self._arrays, len(systems)
        n_atoms = len(geometry.positions)
        stops = np.cumsum(geometry.n_atoms_per_system)
        np.concatenate(
            [each.atomic_numbers for each in systems], out=arrays["atomic_numbers"][:n_atoms]
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
        """Copy what was laid out to the device, which need not have happened on return."""
        if self._there is not self._here:
            self._there.copy_(self._here, non_blocking=True)


def _arrays_like(size: Size, real: type) -> Arrays:
    """Return arrays of the shapes and kinds that are laid out, whatever is in them."""
    n, m = size.n_atoms, size.n_systems
    return {
        "atomic_numbers": np.empty(n, np.int64),
        "positions": np.empty((n, 3), real),
        "owner": np.empty(n, np.int32),
        "first": np.empty(m, np.int32),
        "stop": np.empty(m, np.int32),
        "cells": np.empty((m, 3, 3), real),
        "inverses": np.empty((m, 3, 3), real),
        "reach": np.empty((m, 3), np.int32),
    }
