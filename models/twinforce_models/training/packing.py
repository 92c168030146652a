"""Which systems share a training step: as many as fit into a table of fixed shape."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from twinforce_models.training.config import Recipe, Table
from twinforce_models.training.dataset import Group, Sample, Tabulator, max_neighbors


def make_samples(
    parts: Sequence[Sequence[Group]], tabulator: Tabulator, recipe: Recipe
) -> list[list[Sample]]:
    """Return samples that hold all groups of each part: of training, and of testing.

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
                [Size(sum(map(len, group)), len(group)) for group in part], own, widest, recipe
            )
        ]
        for part, own in zip(parts, widths, strict=True)
    ]


class Size(NamedTuple):
    """How many atoms, and how many systems, go together."""

    n_atoms: int
    n_systems: int = 1


def pack(
    sizes: Sequence[Size], widths: Sequence[int], widest: int, recipe: Recipe
) -> list[tuple[Table, list[int]]]:
    """Return tables and which go into each.

    In an order that follows from the seed, each goes into the first table that has room
    and is no wider than it needs.

    Args:
        sizes: Of what goes together: a system, or one and its twin.
        widths: Neighbors of the most crowded atom of each.
        widest: Neighbors that each has room for if the recipe has no tables.
        recipe: Whose tables and seed to use.
    """
    if not recipe.tables:
        return [(Table(each.n_atoms, widest, each.n_systems), [n]) for n, each in enumerate(sizes)]
    packs: list[tuple[Table, list[int]]] = []
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


def narrowest(size: Size, width: int, tables: Sequence[Table]) -> Table:
    """Return the table of fewest neighbors that holds a system, or one and its twin.

    Raises:
        ValueError: If none does.
    """
    n_atoms, n_systems = size
    fitting = [
        t
        for t in tables
        if t.n_atoms >= n_atoms and t.n_neighbors >= width and t.n_systems >= n_systems
    ]
    if not fitting:
        raise ValueError(
            f"tables: none holds {n_systems} systems together of {n_atoms} atoms of which one has "
            f"{width} neighbors"
        )
    return min(fitting, key=lambda table: table.n_neighbors)
