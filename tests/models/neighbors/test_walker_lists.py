"""A list that is kept with a skin gives what a search gives, and is made anew when it must be."""

import gc
import tracemalloc

import numpy as np
import pytest
import torch

from tests.models.potentials.test_hybrid_net import small_net, water
from twinforce_models.batch import Batch
from twinforce_models.neighbors.folding import fold
from twinforce_models.neighbors.search import neighbor_list, search
from twinforce_models.neighbors.walker_lists import WalkerLists
from twinforce_models.prediction import predict_batch
from twinforce_proto import System

CUTOFF = 3.5


def pairs_of(neighbors):
    """Return pairs and shifts in an order of their own."""
    rows = np.column_stack([neighbors.pairs.T, np.rint(neighbors.shifts)])
    return rows[np.lexsort(rows.T[::-1])].astype(int).tolist()


def look(lists, systems, walkers):
    return lists.search(fold(systems, CUTOFF + lists.skin), CUTOFF, walkers)


def assert_same(lists, systems, walkers):
    expected = search(fold(systems, CUTOFF), CUTOFF)
    found = look(lists, systems, walkers)
    assert pairs_of(found) == pairs_of(expected)
    assert found.n_pairs_per_system == expected.n_pairs_per_system
    assert (np.diff(found.pairs[0]) >= 0).all()


def shaken(system, generator, scale=0.05):
    return system.moved(system.positions + generator.normal(scale=scale, size=(len(system), 3)))


def system_of(pbc, seed=0):
    generator = np.random.default_rng(seed)
    cell = np.array([[7.5, 0.0, 0.0], [1.5, 7.0, 0.0], [-1.0, 0.5, 8.0]])
    positions = generator.uniform(-4, 12, size=(30, 3))
    return System([8] * 30, positions, cell, pbc)


@pytest.mark.parametrize(
    "pbc", [[True] * 3, [True, True, False], [False, False, True], [False] * 3], ids=str
)
def test_a_walk_has_the_neighbors_that_a_search_finds(pbc):
    generator, lists = np.random.default_rng(0), WalkerLists()
    system = system_of(pbc)
    for _ in range(60):
        assert_same(lists, [system], ["a"])
        system = shaken(system, generator, 0.02)
    assert 1 < lists.n_searches < 30


@pytest.mark.parametrize("size", [3.1, 7.0])
def test_pairs_come_in_an_order_that_knows_nothing_of_the_past(size):
    generator, lists = np.random.default_rng(2), WalkerLists()
    positions = generator.uniform(0, size, size=(6, 3))
    system = System([8] * 6, positions, np.eye(3) * size + 0.1, pbc=True)
    n_kept = 0
    for _ in range(40):
        before = lists.n_searches
        found = look(lists, [system], ["a"])
        n_kept += lists.n_searches == before
        fresh = look(WalkerLists(), [system], ["b"])
        assert np.array_equal(found.pairs, fresh.pairs)
        assert np.array_equal(found.shifts, fresh.shifts)
        system = shaken(system, generator, 0.03)
    assert n_kept > 10


def test_a_small_cell_with_many_images_is_walked_too():
    generator, lists = np.random.default_rng(0), WalkerLists()
    system = System([8], [[0.1, 0.2, 0.3]], np.eye(3) * 2.1, pbc=True)
    for _ in range(10):
        assert_same(lists, [system], ["a"])
        system = shaken(system, generator)


def test_wrapping_and_drifting_across_cells_need_no_search():
    generator, lists = np.random.default_rng(0), WalkerLists()
    system = system_of([True] * 3)
    assert_same(lists, [system], ["a"])
    for _ in range(10):
        whole = generator.integers(-3, 4, size=(30, 3))
        near = system.positions + generator.uniform(-0.1, 0.1, size=(30, 3))
        assert_same(lists, [system.moved(near + whole @ system.cell)], ["a"])
    assert lists.n_searches == 1


def test_half_the_skin_is_as_far_as_an_atom_may_move():
    lists, system = WalkerLists(skin=0.5), system_of([True] * 3)
    step = np.zeros((30, 3))
    for distance, n_searches in ((0.0, 1), (0.249, 1), (0.251, 2)):
        step[7, 1] = distance
        look(lists, [system.moved(system.positions + step)], ["a"])
        assert lists.n_searches == n_searches


def test_slow_drift_adds_up():
    lists, system = WalkerLists(skin=0.5), system_of([True] * 3)
    step = np.zeros((30, 3))
    for _ in range(13):
        step[3, 2] += 0.048
        assert_same(lists, [system.moved(system.positions + step)], ["a"])
    assert lists.n_searches == 3


def test_another_cell_number_of_atoms_or_cutoff_is_another_list():
    lists, system = WalkerLists(), system_of([True] * 3)
    assert_same(lists, [system], ["a"])
    numbers, positions = system.atomic_numbers, system.positions
    for changed in (
        System(numbers, positions, system.cell * 1.001, pbc=True),
        System(numbers[1:], positions[1:], system.cell, pbc=True),
        System(numbers[1:], positions[1:], system.cell, pbc=[True, True, False]),
        system,
    ):
        before = lists.n_searches
        assert_same(lists, [changed], ["a"])
        assert lists.n_searches == before + 1
    lists.search(fold([system], 3.0 + lists.skin), 3.0, ["a"])
    assert_same(lists, [system], ["a"])


def test_walkers_of_a_batch_come_and_go():
    generator, lists = np.random.default_rng(0), WalkerLists()
    walkers = {name: system_of([True] * 3, seed) for seed, name in enumerate("abcd")}
    for _ in range(12):
        names = list(generator.permutation(list(walkers)))[: generator.integers(1, 5)]
        systems = [walkers[name] for name in names]
        assert_same(lists, [*systems, system_of([False] * 3)], [*names, None])
        walkers |= {name: shaken(walkers[name], generator, 0.01) for name in names}
    assert len(lists) == 4


def test_what_was_not_used_for_longest_is_forgotten():
    lists, systems = WalkerLists(), [system_of([True] * 3, seed) for seed in range(3)]
    look(lists, systems[:1], ["0"])
    look(lists, systems[:1], ["0"])
    n_pairs = len(search(fold(systems[:1], CUTOFF + 0.5), CUTOFF + 0.5).shifts)
    small = WalkerLists(max_size=int(2.5 * (n_pairs + len(systems[0]) + 40)))
    for name in ("0", "1", "0", "2"):
        assert_same(small, [systems[int(name)]], [name])
    assert len(small) == 2
    before = small.n_searches
    assert_same(small, [systems[0]], ["0"])
    assert small.n_searches == before
    assert_same(small, [systems[1]], ["1"])
    assert small.n_searches == before + 1
    tiny = WalkerLists(max_size=1)
    assert_same(tiny, systems[:1], ["0"])
    assert len(tiny) == 0


def test_walkers_that_come_and_never_come_back_take_bounded_memory():
    crowd, lists = System([8], [[0.0, 0.0, 0.0]]), WalkerLists(max_size=5_000)
    many = [system_of([False] * 3)] * 40
    tracemalloc.start()
    for name in range(400):
        look(lists, [crowd, *many], [f"gone {name}", *[None] * len(many)])
    gc.collect()
    n_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < len(lists) <= 5_000 / 40
    assert n_bytes < 2 * 64 * 5_000


def test_predictions_are_those_of_a_search():
    potential, lists, generator = small_net(), WalkerLists(), np.random.default_rng(0)
    system = water()
    outputs = {"energy", "conservative_forces", "conservative_stress", "direct_forces"}
    for _ in range(5):
        kept, fresh = (
            predict_batch(potential, batch, outputs)
            for batch in (
                Batch.from_systems([system], potential.cutoff, lists=lists, walkers=["a"]),
                Batch.from_systems([system], potential.cutoff),
            )
        )
        for name in outputs:
            torch.testing.assert_close(getattr(kept, name), getattr(fresh, name))
        system = shaken(system, generator, 0.01)
    assert lists.n_searches == 1


def test_lists_without_walkers_are_searches():
    system = water()
    lists = WalkerLists()
    batch = Batch.from_systems([system], CUTOFF, lists=lists, walkers=[None])
    assert batch.n_pairs == neighbor_list([system], CUTOFF).pairs.shape[1]
    assert len(lists) == 0


def test_walkers_that_are_looked_at_together_get_what_each_gets_alone():
    generator = np.random.default_rng(5)
    together, alone = WalkerLists(), WalkerLists()
    kinds = [[True] * 3, [True, True, False], [False] * 3, [True] * 3, [False, True, False]]
    systems = [system_of(pbc, seed) for seed, pbc in enumerate(kinds)]
    lone = System([8], [[0, 0, 0]])
    for step in range(40):
        walkers = [*"abcde", "f"]
        order = generator.permutation(len(walkers)) if step % 3 else np.arange(len(walkers))
        asked = [[*systems, lone][index] for index in order]
        found = look(together, asked, [walkers[index] for index in order])
        starts = np.cumsum((0, *(len(each) for each in asked)))
        parts = [look(alone, [each], [walkers[i]]) for i, each in zip(order, asked, strict=True)]
        pairs = [each.pairs + start for each, start in zip(parts, starts[:-1], strict=True)]
        np.testing.assert_array_equal(found.pairs, np.concatenate(pairs, axis=1))
        np.testing.assert_array_equal(found.shifts, np.concatenate([p.shifts for p in parts]))
        assert found.n_pairs_per_system == tuple(len(each.shifts) for each in parts)
        systems = [shaken(each, generator, 0.02) for each in systems]
    assert together.n_searches < 6 * 20
