"""Packing of systems into tables of fixed shape, each of which is the sample of a training step."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from twinforce_models.training.config import Recipe, TableShape
from twinforce_models.training.dataset import Group, Sample, Tabulator, max_neighbors

_WIDTH_STEP = 2  # of the widths of tables, so that similar data share compiled steps
_MIN_SAVING = 0.8  # largest share of the entries that makes a second table worth compiling


def make_samples(
    parts: Sequence[Sequence[Group]], tabulator: Tabulator, recipe: Recipe
) -> list[list[Sample]]:
    """Return the samples of each part of the data, such as training and test systems.

    Raises:
        ValueError: If a group fits into none of the recipe's tables.
    """
    widths = [
        [max(max_neighbors(example, tabulator.cutoff) for example in group) for group in part]
        for part in parts
    ]
    widest = max(max(each) for each in widths)
    return [
        [
            tabulator.sample([part[n] for n in members], table)
            for table, members in pack(
                [GroupSize(sum(map(len, group)), len(group)) for group in part], own, widest, recipe
            )
        ]
        for part, own in zip(parts, widths, strict=True)
    ]


class GroupSize(NamedTuple):
    """The size of a group.

    Attributes:
        n_atoms: Number of atoms of all its systems.
        n_systems: Number of its systems: 1, or 2 for a system and its twin.
    """

    n_atoms: int
    n_systems: int = 1


def pack(
    sizes: Sequence[GroupSize], widths: Sequence[int], widest: int, recipe: Recipe
) -> list[tuple[TableShape, list[int]]]:
    """Return tables, each with the indices of its groups.

    In an order that follows from the seed, each group goes into the first table that has room for
    it and has the narrowest shape that it fits.

    Args:
        sizes: Size of each group.
        widths: Largest number of neighbors of an atom in each group.
        widest: Width of all tables if the recipe has no tables.
        recipe: Recipe whose tables and seed are used.
    """
    if not recipe.tables:
        return [
            (TableShape(each.n_atoms, widest, each.n_systems), [n]) for n, each in enumerate(sizes)
        ]
    packs: list[tuple[TableShape, list[int]]] = []
    for n in np.random.default_rng(recipe.seed).permutation(len(sizes)).tolist():
        table = narrowest(sizes[n], widths[n], recipe.tables)
        for own, members in packs:
            together = [sizes[m] for m in (*members, n)]
            n_atoms = sum(each.n_atoms for each in together)
            n_systems = sum(each.n_systems for each in together)
            if own == table and n_atoms <= own.n_atoms and n_systems <= own.n_systems:
                members.append(n)
                break
        else:
            packs.append((table, [n]))
    return packs


def narrowest(size: GroupSize, width: int, tables: Sequence[TableShape]) -> TableShape:
    """Return the table with the fewest neighbors that holds a group.

    Raises:
        ValueError: If the group fits into none of the tables.
    """
    n_atoms, n_systems = size
    fitting = [
        t
        for t in tables
        if t.n_atoms >= n_atoms and t.n_neighbors >= width and t.n_systems >= n_systems
    ]
    if not fitting:
        raise ValueError(
            f"tables: expected a table that holds {n_atoms} atoms in {n_systems} systems, with up "
            f"to {width} neighbors per atom, got none that is large enough"
        )
    return min(fitting, key=lambda table: table.n_neighbors)


def choose_tables(
    sizes: Sequence[GroupSize], widths: Sequence[int], n_atoms_per_step: int
) -> tuple[TableShape, ...]:
    """Return the tables for groups: one, or two of different widths where that saves a fifth.

    Each shape takes a minute or more to compile, so that more of them seldom pay off.

    Args:
        sizes: Size of each group.
        widths: Largest number of neighbors of an atom in each group.
        n_atoms_per_step: Number of atoms of a table if all groups are smaller.
    """
    rounded = [-(-max(width, 1) // _WIDTH_STEP) * _WIDTH_STEP for width in widths]
    widest = max(rounded)

    def entries(limit: int) -> int:
        return sum(
            size.n_atoms * (limit if width <= limit else widest)
            for size, width in zip(sizes, rounded, strict=True)
        )

    best = min(sorted(set(rounded)), key=entries)
    limits = [best, widest] if entries(best) < _MIN_SAVING * entries(widest) else [widest]
    return tuple(
        _table_of(
            [size for size, width in zip(sizes, rounded, strict=True) if width <= limit],
            limit,
            n_atoms_per_step,
        )
        for limit in limits
    )


def _table_of(sizes: Sequence[GroupSize], width: int, n_atoms_per_step: int) -> TableShape:
    """Return a table that holds each of the groups, and as many of equal size as fit."""
    largest = max(size.n_atoms for size in sizes)
    n_atoms = max(largest, n_atoms_per_step)
    if len({size.n_atoms for size in sizes}) == 1:
        n_atoms = largest * max(n_atoms_per_step // largest, 1)
    densest = max(size.n_systems / size.n_atoms for size in sizes)
    return TableShape(n_atoms, width, max(int(densest * n_atoms + 1e-9), 1))
