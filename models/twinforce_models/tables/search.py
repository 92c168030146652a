"""Neighbor search into a `Table`: by kernels on a GPU, and a plain reference for the CPU."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from twinforce_models.tables.table import Places, Table, packed

_TRIED_WIDTH = 16


def search(places: Places, cutoff: float, width: int, dtype: torch.dtype) -> Table:
    """Return the table of all pairs closer than the cutoff, within each system.

    Args:
        places: On the device on which the table is to be made.
        cutoff: In Å.
        width: Number of columns for neighbors; at least 1.
        dtype: Data type of the vectors, to which they are rounded last.
    """
    if places.positions.device.type == "cuda":
        found = _kernels().search(places, cutoff, width, dtype)
    else:
        found = _search_plainly(places, cutoff, width, dtype)
    return Table(places.atomic_numbers, *found)


def reversed_places(neighbors: Tensor, shifts: Tensor, counts: Tensor) -> Tensor:
    """Return the reverse index: where each pair appears from its other end, in the flattened table.

    Padding is its own reverse, so this is a permutation that is its own inverse.

    Args:
        neighbors: As in `Table`; each pair must be listed from both ends.
        shifts: As in `Table`.
        counts: As in `Table`.

    Returns:
        Shape [n_atoms, width], int64.
    """
    if neighbors.device.type == "cuda":
        found: Tensor = _kernels().reversed_places(neighbors, shifts, counts)
        return found
    n_atoms, width = neighbors.shape
    here = torch.arange(n_atoms * width).view(n_atoms, width)
    is_back = (neighbors[neighbors] == torch.arange(n_atoms)[:, None, None]) & (
        shifts[neighbors] == -shifts.unsqueeze(-1)
    )
    there = neighbors * width + is_back.to(torch.int8).argmax(dim=-1)
    is_real = torch.arange(width) < counts.unsqueeze(1)
    return torch.where(is_real, there, here)


def check_search(device: torch.device) -> None:
    """Search for the neighbors of two atoms, and check the reverse index.

    Raises:
        ArithmeticError: If the result is wrong.
        Exception: If the kernels cannot be compiled or run.
    """
    places = Places(
        torch.ones(2, dtype=torch.int64),
        torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64),
        torch.zeros(2, dtype=torch.int32),
        torch.tensor([0], dtype=torch.int32),
        torch.tensor([2], dtype=torch.int32),
        10 * torch.eye(3, dtype=torch.float64).unsqueeze(0),
        0.1 * torch.eye(3, dtype=torch.float64).unsqueeze(0),
        torch.zeros(1, 3, dtype=torch.int32),
    )
    there = Places(*(getattr(places, each.name).to(device) for each in fields(places)))
    table = search(there, 2.0, _TRIED_WIDTH, torch.float32)
    back = reversed_places(table.neighbors, table.shifts, table.counts)
    expected = torch.arange(2 * _TRIED_WIDTH)
    expected[[0, _TRIED_WIDTH]] = expected[[_TRIED_WIDTH, 0]]
    if not torch.equal(back.cpu().view(-1), expected):
        raise ArithmeticError(
            f"reverse index: expected {expected.tolist()}, got {back.view(-1).tolist()}"
        )


def _kernels() -> Any:
    from twinforce_models.tables import kernels

    return kernels


def _search_plainly(
    places: Places, cutoff: float, width: int, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Return the result of the kernel, with rows in a different order; for tests and for a CPU."""
    n_atoms, like = len(places.positions), places.positions
    neighbors = torch.arange(n_atoms).unsqueeze(1).repeat(1, width)
    vectors = torch.zeros(n_atoms, width, 3, dtype=dtype)
    vectors[..., 0] = cutoff
    shifts = torch.zeros(n_atoms, width, dtype=torch.int32)
    counts = torch.zeros(n_atoms, dtype=torch.int32)
    for index, (first, stop) in enumerate(zip(places.first, places.stop, strict=True)):
        atoms = slice(int(first), int(stop))
        found = _pairs(like[atoms], places, index, cutoff)
        for row in range(atoms.stop - atoms.start):
            j, vector, shift = found(row)
            atom, n_kept = atoms.start + row, min(len(j), width)
            counts[atom] = len(j)
            neighbors[atom, :n_kept] = atoms.start + j[:n_kept]
            vectors[atom, :n_kept] = vector[:n_kept].to(dtype)
            shifts[atom, :n_kept] = packed(shift[:n_kept])
    return neighbors, vectors, shifts, counts


def _pairs(
    positions: Tensor, places: Places, index: int, cutoff: float
) -> Callable[[int], tuple[Tensor, Tensor, Tensor]]:
    """Return a function that maps an atom of a system to its neighbors, vectors and shifts."""
    cell, inverse = places.cells[index], places.inverses[index]
    ranges = [torch.arange(-int(m), int(m) + 1) for m in places.reach[index]]
    images = torch.cartesian_prod(*ranges).to(positions.dtype)

    def of(row: int) -> tuple[Tensor, Tensor, Tensor]:
        apart = positions - positions[row]
        nearest = torch.floor(0.5 - apart @ inverse)
        shifts = nearest.unsqueeze(1) + images
        vectors = apart.unsqueeze(1) + shifts @ cell
        itself = (torch.arange(len(positions)) == row)[:, None] & (shifts == 0).all(-1)
        is_near = (vectors.square().sum(-1) < cutoff**2) & ~itself
        j, image = is_near.nonzero(as_tuple=True)
        return j, vectors[j, image], shifts[j, image]

    return of
