"""Kept neighbor lists with a skin: equal to a search, and rebuilt when necessary."""

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
    """Return the rows of pairs and shifts, sorted."""
    rows = np.column_stack([neighbors.pairs.T, np.rint(neighbors.shifts)])
    return rows[np.lexsort(rows.T[::-1])].astype(int).tolist()


def search_with_lists(lists, systems, walkers):
    return lists.search(fold(systems, CUTOFF + lists.skin), CUTOFF, walkers)


def assert_same(lists, systems, walkers):
    expected = search(fold(systems, CUTOFF), CUTOFF)
    found = search_with_lists(lists, systems, walkers)
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
def test_a_moving_walker_has_the_neighbors_of_a_search(pbc):
    generator, lists = np.random.default_rng(0), WalkerLists()
    system = system_of(pbc)
    for _ in range(60):
        assert_same(lists, [system], ["a"])
        system = shaken(system, generator, 0.02)
    assert 1 < lists.n_searches < 30


@pytest.mark.parametrize("size", [3.1, 7.0])
def test_the_order_of_pairs_does_not_depend_on_earlier_steps(size):
    generator, lists = np.random.default_rng(2), WalkerLists()
    positions = generator.uniform(0, size, size=(6, 3))
    system = System([8] * 6, positions, np.eye(3) * size + 0.1, pbc=True)
    n_kept = 0
    for _ in range(40):
        before = lists.n_searches
        found = search_with_lists(lists, [system], ["a"])
        n_kept += lists.n_searches == before
        fresh = search_with_lists(WalkerLists(), [system], ["b"])
        assert np.array_equal(found.pairs, fresh.pairs)
        assert np.array_equal(found.shifts, fresh.shifts)
        system = shaken(system, generator, 0.03)
    assert n_kept > 10


def test_lists_are_kept_for_small_cells_with_many_images():
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


def test_a_list_is_kept_until_an_atom_moves_half_the_skin():
    lists, system = WalkerLists(skin=0.5), system_of([True] * 3)
    step = np.zeros((30, 3))
    for distance, n_searches in ((0.0, 1), (0.249, 1), (0.251, 2)):
        step[7, 1] = distance
        search_with_lists(lists, [system.moved(system.positions + step)], ["a"])
        assert lists.n_searches == n_searches


def test_slow_drift_is_measured_from_the_last_search():
    lists, system = WalkerLists(skin=0.5), system_of([True] * 3)
    step = np.zeros((30, 3))
    for _ in range(13):
        step[3, 2] += 0.048
        assert_same(lists, [system.moved(system.positions + step)], ["a"])
    assert lists.n_searches == 3


def test_a_new_cell_number_of_atoms_or_cutoff_needs_a_new_search():
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


def test_the_walkers_of_a_batch_can_change():
    generator, lists = np.random.default_rng(0), WalkerLists()
    walkers = {name: system_of([True] * 3, seed) for seed, name in enumerate("abcd")}
    for _ in range(12):
        names = list(generator.permutation(list(walkers)))[: generator.integers(1, 5)]
        systems = [walkers[name] for name in names]
        assert_same(lists, [*systems, system_of([False] * 3)], [*names, None])
        walkers |= {name: shaken(walkers[name], generator, 0.01) for name in names}
    assert len(lists) == 4


def test_the_least_recently_used_list_is_dropped():
    lists, systems = WalkerLists(), [system_of([True] * 3, seed) for seed in range(3)]
    search_with_lists(lists, systems[:1], ["0"])
    search_with_lists(lists, systems[:1], ["0"])
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


def test_lists_of_walkers_that_have_ended_are_dropped_after_minutes():
    now = [0.0]
    lists, systems = WalkerLists(clock=lambda: now[0]), [system_of([True] * 3)]
    for name in ("ended", "slow", "other"):
        search_with_lists(lists, systems, [name])
    for _ in range(3):
        now[0] += 200.0
        search_with_lists(lists, systems, ["slow"])
    assert lists.n_searches == 3
    search_with_lists(lists, systems, ["new"])
    assert len(lists) == 2
    assert_same(lists, systems, ["slow"])
    assert lists.n_searches == 4
    assert_same(lists, systems, ["ended"])
    assert lists.n_searches == 5


def test_memory_is_bounded_if_walkers_never_return():
    single, lists = System([8], [[0.0, 0.0, 0.0]]), WalkerLists(max_size=5_000)
    many = [system_of([False] * 3)] * 40
    tracemalloc.start()
    for name in range(200):
        search_with_lists(lists, [single, *many], [f"gone {name}", *[None] * len(many)])
    gc.collect()
    n_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < len(lists) <= 5_000 / 40
    assert n_bytes < 2 * 64 * 5_000


def test_predictions_with_kept_lists_equal_those_with_a_search():
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


def test_systems_without_walkers_are_searched():
    system = water()
    lists = WalkerLists()
    batch = Batch.from_systems([system], CUTOFF, lists=lists, walkers=[None])
    assert batch.n_pairs == neighbor_list([system], CUTOFF).pairs.shape[1]
    assert len(lists) == 0


def test_walkers_processed_together_get_the_same_lists_as_alone():
    generator = np.random.default_rng(5)
    together, alone = WalkerLists(), WalkerLists()
    kinds = [[True] * 3, [True, True, False], [False] * 3, [True] * 3, [False, True, False]]
    systems = [system_of(pbc, seed) for seed, pbc in enumerate(kinds)]
    lone = System([8], [[0, 0, 0]])
    for step in range(40):
        walkers = [*"abcde", "f"]
        order = generator.permutation(len(walkers)) if step % 3 else np.arange(len(walkers))
        asked = [[*systems, lone][index] for index in order]
        found = search_with_lists(together, asked, [walkers[index] for index in order])
        starts = np.cumsum((0, *(len(each) for each in asked)))
        parts = [
            search_with_lists(alone, [each], [walkers[i]])
            for i, each in zip(order, asked, strict=True)
        ]
        pairs = [each.pairs + start for each, start in zip(parts, starts[:-1], strict=True)]
        np.testing.assert_array_equal(found.pairs, np.concatenate(pairs, axis=1))
        np.testing.assert_array_equal(found.shifts, np.concatenate([p.shifts for p in parts]))
        assert found.n_pairs_per_system == tuple(len(each.shifts) for each in parts)
        systems = [shaken(each, generator, 0.02) for each in systems]
    assert together.n_searches < 6 * 20
