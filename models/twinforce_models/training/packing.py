"""Which systems share a training step: as many as fit into a table of fixed shape."""

from collections.abc import Sequence

import ase
import numpy as np

from twinforce_models.training.config import Recipe, Table
from twinforce_models.training.dataset import Sample, Tabulator, max_neighbors


def make_samples(
    parts: Sequence[Sequence[ase.Atoms]], tabulator: Tabulator, recipe: Recipe
) -> list[list[Sample]]:
    """Return samples that hold all frames of each part: of training, and of testing.

    Raises:
        ValueError: If a frame fits into none of the recipe's tables.
    """
    widths = [[max_neighbors(frame, tabulator.cutoff) for frame in part] for part in parts]
    widest = max(max(each) for each in widths)
    return [
        [
            tabulator.sample([part[n] for n in members], table)
            for table, members in pack([len(frame) for frame in part], own, widest, recipe)
        ]
        for part, own in zip(parts, widths, strict=True)
    ]


def pack(
    sizes: Sequence[int], widths: Sequence[int], widest: int, recipe: Recipe
) -> list[tuple[Table, list[int]]]:
    """Return tables and which systems go into each.

    In an order that follows from the seed, each system goes into the first table that has room
    and is no wider than it needs.

    Args:
        sizes: Atoms of each system.
        widths: Neighbors of its most crowded atom.
        widest: Neighbors that each system has room for if the recipe has no tables.
        recipe: Whose tables and seed to use.
    """
    if not recipe.tables:
        return [(Table(size, widest, 1), [n]) for n, size in enumerate(sizes)]
    packs: list[tuple[Table, list[int]]] = []
    for n in np.random.default_rng(recipe.seed).permutation(len(sizes)).tolist():
        table = narrowest(sizes[n], widths[n], recipe.tables)
        for own, members in packs:
            n_atoms = sum(sizes[m] for m in members) + sizes[n]
            if own == table and n_atoms <= own.n_atoms and len(members) < own.n_systems:
                members.append(n)
                break
        else:
            packs.append((table, [n]))
    return packs


def narrowest(size: int, width: int, tables: Sequence[Table]) -> Table:
    """Return the table of fewest neighbors that holds a system.

    Raises:
        ValueError: If none does.
    """
    fitting = [t for t in tables if t.n_atoms >= size and t.n_neighbors >= width]
    if not fitting:
        raise ValueError(
            f"tables: none holds a system of {size} atoms of which one has {width} neighbors"
        )
    return min(fitting, key=lambda table: table.n_neighbors)
