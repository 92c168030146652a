"""Packing of systems into tables of fixed shape, each of which is the sample of a training step."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from twinforce_models.training.config import Recipe, TableShape
from twinforce_models.training.dataset import Group, Sample, Tabulator, max_neighbors


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
