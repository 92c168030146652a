"""Small systems with every kind of boundary condition, for `check_potential`."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from twinforce_proto import System

Floats = NDArray[np.float64]

_SPACING = 2.0
"""Distance between neighboring atoms, in Å."""


def default_systems(elements: Sequence[int], cutoff: float) -> list[System]:
    """Return a crystal, slab, wire, molecule and atom, made of up to four of the elements.

    The crystal's cell is skewed, left-handed and smaller than the cutoff, and its atoms lie outside
    it. The molecule has a cell without meaning, and one atom beyond the cutoff of all others.
    """
    rng = np.random.default_rng(20)
    crystal = _grid((2, 2, 1)) + rng.normal(scale=0.15, size=(4, 3))
    crystal_cell = _SPACING * np.array([[0.0, 2.1, 0.3], [2.2, 0.4, 0.0], [0.7, 0.5, 1.3]])
    away = rng.integers(-2, 3, size=(4, 3)) @ crystal_cell
    slab = _grid((2, 2, 2)) + rng.normal(scale=0.15, size=(8, 3))
    box = 2.1 * _SPACING * np.eye(3)
    molecule = _grid((3, 2, 1)) + rng.normal(scale=0.15, size=(6, 3))
    molecule[5] += 3 * cutoff
    return [
        _system(elements, crystal + away, crystal_cell, [True, True, True]),
        _system(elements, slab, box, [True, True, False]),
        _system(elements, slab[:4], box, [False, False, True]),
        _system(elements, molecule, box, [False, False, False]),
        _system(elements, np.ones((1, 3)), None, [False, False, False]),
    ]


def dimers(elements: Sequence[int], near: float, far: float) -> Iterator[tuple[System, System]]:
    """Yield pairs of systems: two atoms at distance `near` and `far` (Å), with a third nearby."""
    few = _few(elements)
    for first in few:
        for second in few:
            yield _trimer(first, second, near), _trimer(first, second, far)


def shuffled(system: System, order: NDArray[np.int64]) -> System:
    """Return the system with its atoms in another order."""
    return System(
        system.atomic_numbers[order],
        system.positions[order],
        system.cell,
        system.pbc,
        system.charge,
        system.spin_multiplicity,
    )


def moved(system: System, matrix: Floats) -> System:
    """Return the system with positions and cell multiplied by a [3, 3] matrix from the right."""
    return system.moved(system.positions @ matrix, system.cell @ matrix)


def rotation(rng: np.random.Generator) -> Floats:
    """Return a random proper rotation matrix."""
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return np.asarray(turn * np.sign(np.linalg.det(turn)), dtype=np.float64)


def _trimer(first: int, second: int, distance: float) -> System:
    third = np.array([-0.6, 1.1, -0.9]) * _SPACING / 1.54
    along = distance * np.array([2.0, 3.0, 6.0]) / 7.0
    return System([first, second, first], np.array([np.zeros(3), along, third]))


def _system(elements: Sequence[int], positions: Floats, cell: object, pbc: list[bool]) -> System:
    few = _few(elements)
    numbers = [few[index % len(few)] for index in range(len(positions))]
    return System(numbers, positions, None if cell is None else np.asarray(cell), pbc)


def _few(elements: Sequence[int]) -> list[int]:
    return [int(element) for element in sorted(elements)[:4]]


def _grid(shape: tuple[int, int, int]) -> Floats:
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return np.asarray(np.stack(axes, axis=-1).reshape(-1, 3) * _SPACING, dtype=np.float64)
