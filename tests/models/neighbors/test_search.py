"""The neighbor list, compared with ASE's and with a plain loop over all images."""

import ase
import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list as ase_neighbor_list
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from twinforce_models.batch import Batch
from twinforce_models.neighbors.folding import fold, reduced_basis
from twinforce_models.neighbors.search import (
    neighbor_list,
    search,
    search_on_device,
)
from twinforce_proto import System

CUTOFF = 3.0


def as_set(i, j, shifts):
    """Return sorted tuples of pairs and shifts; a pair that is listed twice appears twice."""
    return sorted(zip(i.tolist(), j.tolist(), map(tuple, shifts.astype(int).tolist()), strict=True))


def listed_pairs(system, cutoff=CUTOFF):
    neighbors = neighbor_list([system], cutoff)
    return as_set(*neighbors.pairs, neighbors.shifts)


def n_cubes(system, cutoff=CUTOFF):
    """Return the number of cubes, as wide as the cutoff, that a search covers."""
    (cell,) = fold([system], cutoff).search_cells
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    return np.maximum(heights // cutoff, 1).prod()


def ase_pairs(system, cutoff=CUTOFF):
    atoms = ase.Atoms(system.atomic_numbers, system.positions, cell=system.cell, pbc=system.pbc)
    return as_set(*ase_neighbor_list("ijS", atoms, cutoff))


def pairs_of_all_images(system, cutoff=CUTOFF):
    """Return pairs and shifts from a loop over all images within reach, without cell lists."""
    periodic = system.cell[system.pbc]
    ranges = np.zeros(3, dtype=int)
    if len(periodic):
        reach = cutoff + np.linalg.norm(np.ptp(system.positions, axis=0))
        ranges[system.pbc] = np.ceil(reach * np.linalg.norm(np.linalg.pinv(periodic), axis=0))
    axes = [np.arange(-n, n + 1) for n in ranges]
    shifts = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    x = system.positions
    d = x[None, :, None] - x[:, None, None] + shifts @ system.cell
    i, j, s = np.nonzero(np.linalg.norm(d, axis=-1) < cutoff)
    keep = (i != j) | shifts[s].any(axis=1)
    return as_set(i[keep], j[keep], shifts[s[keep]])


@st.composite
def hard_systems(draw, max_atoms=6):
    """Draw small systems: any pbc mix, skewed and left-handed cells, unwrapped coordinates."""
    pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    lengths = [draw(st.floats(0.9, 8.0)) for _ in range(3)]
    skew = np.array([[draw(st.floats(-1.5, 1.5)) for _ in range(3)] for _ in range(3)])
    cell = np.diag(lengths) @ (np.eye(3) + skew * (1 - np.eye(3)))
    if draw(st.booleans()):
        cell = cell[[1, 0, 2]]
    cell[[draw(st.booleans()) and not periodic for periodic in pbc]] = 0.0
    drawn = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.0, 1.0, 4.0, 60.0]))
    n_atoms = draw(st.integers(1, max_atoms))
    positions = drawn.uniform(-1, 1, size=(n_atoms, 3)) * spread
    assume(is_moderate(cell, np.array(pbc)))
    return System(np.ones(n_atoms, dtype=int), positions, cell, pbc)


def is_moderate(cell, pbc):
    """Return True if ASE's list can process the cell in reasonable time."""
    given_vectors = cell[cell.any(axis=1)]
    if np.linalg.matrix_rank(given_vectors, tol=0.1) < len(given_vectors):
        return False
    periodic = cell[pbc]
    if not len(periodic):
        return True
    return (1 / np.linalg.norm(np.linalg.pinv(periodic), axis=0)).min() > 1.2


def near_cutoff(system):
    """Return True if rounding may decide about a pair."""
    return pairs_of_all_images(system, CUTOFF - 1e-7) != pairs_of_all_images(system, CUTOFF + 1e-7)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(hard_systems())
def test_any_system_has_the_pairs_of_ases_list(system):
    assume(not near_cutoff(system))
    assert listed_pairs(system) == ase_pairs(system)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(hard_systems())
def test_any_system_has_the_pairs_of_a_loop_over_all_images(system):
    assume(not near_cutoff(system))
    assert listed_pairs(system) == pairs_of_all_images(system)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(hard_systems(), min_size=2, max_size=5))
@example([System([1], np.zeros((1, 3))), System([1, 1], [[0, 0, 0], [0, 0, 1.0]])])
def test_a_system_in_a_batch_has_the_same_pairs_as_alone(systems):
    together = neighbor_list(systems, CUTOFF)
    start_atom = start_pair = 0
    for system, n_pairs in zip(systems, together.n_pairs_per_system, strict=True):
        alone = neighbor_list([system], CUTOFF)
        rows = slice(start_pair, start_pair + n_pairs)
        np.testing.assert_array_equal(together.pairs[:, rows] - start_atom, alone.pairs)
        np.testing.assert_array_equal(together.shifts[rows], alone.shifts)
        start_atom, start_pair = start_atom + len(system), start_pair + n_pairs
    assert start_pair == together.pairs.shape[1]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(hard_systems(), min_size=1, max_size=4))
def test_the_displacements_of_a_batch_are_shorter_than_the_cutoff(systems):
    batch = Batch.from_systems(systems, CUTOFF)
    assert (batch.displacements().norm(dim=1) < CUTOFF + 1e-9).all()
    assert (batch.pairs[0].diff() >= 0).all()


def test_pairs_never_cross_systems():
    overlapping = [System([1, 1], [[0, 0, 0], [0, 0, 1.0]]) for _ in range(3)]
    i, j = neighbor_list(overlapping, CUTOFF).pairs
    np.testing.assert_array_equal(i // 2, j // 2)


def test_no_pair_is_listed_twice():
    system = System([1, 1], [[0, 0, 0], [0.5, 0.5, 0.5]], np.eye(3) * 1.0, True)
    pairs = listed_pairs(system)
    assert len(set(pairs)) == len(pairs) == len(pairs_of_all_images(system))


def test_every_pair_is_listed_from_both_ends():
    pairs = listed_pairs(System([1, 1], [[0, 0, 0], [1.1, 0.2, 0]], np.eye(3) * 2.0, True))
    mirrored = [(j, i, tuple(-s for s in shift)) for i, j, shift in pairs]
    assert sorted(mirrored) == pairs


def test_unwrapped_coordinates_have_the_neighbors_of_wrapped_ones():
    cell = np.array([[4.0, 0, 0], [1.0, 4.0, 0], [0, 0, 4.0]])
    positions = np.array([[0, 0, 0], [1.0, 1.0, 1.0]])
    far = positions + np.array([[1000, -7, 3], [-20, 5, 0]]) @ cell
    assert listed_pairs(System([1, 1], far, cell, True)) == ase_pairs(
        System([1, 1], far, cell, True)
    )
    near = Batch.from_systems([System([1, 1], positions, cell, True)], CUTOFF)
    same = Batch.from_systems([System([1, 1], far, cell, True)], CUTOFF)
    torch.testing.assert_close(same.displacements(), near.displacements(), rtol=0, atol=1e-11)


def test_a_molecule_with_a_cell_has_no_images():
    positions = [[0, 0, 0], [1.5, 0, 0]]
    carries = System([1, 1], positions, np.eye(3) * 2.0, False)
    assert (
        listed_pairs(carries)
        == listed_pairs(System([1, 1], positions))
        == [(0, 1, (0,) * 3), (1, 0, (0,) * 3)]
    )


@pytest.mark.parametrize("cell", [np.ones((3, 3)), np.diag([1e-9, 1e6, 0.0]), -np.eye(3)])
def test_the_cell_of_a_molecule_is_ignored(cell):
    assert len(listed_pairs(System([1, 1], [[0, 0, 0], [1.5, 0, 0]], cell, False))) == 2


def test_open_cell_vectors_may_lie_along_periodic_ones():
    cell = np.array([[3.0, 0, 0], [3.0, 0, 0], [6.0, 1e-12, 0]])
    system = System([1, 1], [[0, 0, 0], [1.0, 0, 0]], cell, [True, False, False])
    assert listed_pairs(system) == pairs_of_all_images(system)


def test_a_left_handed_cell_has_the_neighbors_of_its_mirror_image():
    right = System([1, 1], [[0, 0, 0], [1.0, 0.5, 0.2]], np.diag([2.0, 3.0, 4.0]), True)
    left = System([1, 1], right.positions, right.cell[[1, 0, 2]], True)
    swapped = [(i, j, (b, a, c)) for i, j, (a, b, c) in listed_pairs(right)]
    assert listed_pairs(left) == sorted(swapped)


@pytest.mark.parametrize("skew", [0.5, 3.0, 60.0, 1e4])
def test_a_strongly_skewed_cell_has_the_neighbors_of_the_lattice(skew):
    cell = np.array([[3.0, 0, 0], [3.0 * np.rint(skew), 3.0, 0], [0, 0, 3.0]])
    system = System([1, 1], [[0, 0, 0], [1.0, 0.5, 0.2]], cell, True)
    straight = Batch.from_systems([System([1, 1], system.positions, np.eye(3) * 3, True)], 5.0)
    skewed = Batch.from_systems([system], 5.0)
    lengths = [b.displacements().norm(dim=1).sort().values for b in (straight, skewed)]
    torch.testing.assert_close(lengths[0], lengths[1], rtol=0, atol=1e-9)


def test_a_cell_smaller_than_the_cutoff_has_many_images():
    system = System([1], np.zeros((1, 3)), np.diag([0.9, 1.1, 1.3]), True)
    assert listed_pairs(system) == ase_pairs(system)
    assert len(listed_pairs(system)) > 80


@pytest.mark.parametrize("pbc", list(np.ndindex(2, 2, 2)))
def test_every_mix_of_periodic_and_open_directions_matches_ase(pbc):
    positions = np.random.default_rng(3).uniform(-6, 6, size=(7, 3))
    cell = np.array([[4.0, 0.3, 0], [0.2, 3.5, 1.0], [-0.4, 0.1, 5.0]])
    system = System(np.ones(7, dtype=int), positions, cell, np.array(pbc, dtype=bool))
    assert listed_pairs(system) == ase_pairs(system)


def test_a_single_atom_has_no_pairs():
    neighbors = neighbor_list([System([1], np.zeros((1, 3)))], CUTOFF)
    assert neighbors.pairs.shape == (2, 0)
    assert neighbors.shifts.shape == (0, 3)
    assert neighbors.n_pairs_per_system == (0,)


def test_a_batch_may_have_no_pairs_at_all():
    lonely = System([1, 1], [[0, 0, 0], [9.0, 0, 0]])
    batch = Batch.from_systems([lonely, lonely], CUTOFF)
    assert batch.n_pairs == 0
    assert batch.displacements().shape == (0, 3)


def test_two_atoms_on_top_of_each_other_are_neighbors():
    assert len(listed_pairs(System([1, 1], np.zeros((2, 3))))) == 2
    image = System([1, 1], [[0, 0, 0], [4.0, 0, 0]], np.eye(3) * 4.0, True)
    assert (0, 1, (-1, 0, 0)) in listed_pairs(image)


@pytest.mark.parametrize("distance", [1e3, 1e5, 3e5])
@pytest.mark.parametrize("pbc", [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)])
def test_empty_space_is_not_searched(pbc, distance):
    positions = np.array([[0, 0, 0], [1.0, 0, 0], [0, 0, distance], [0.5, 0.5, distance]])
    cell = np.diag([20.0, 20.0, 3 * distance])
    system = System([1] * 4, positions, cell, np.array(pbc, dtype=bool))
    assert n_cubes(system) < 100
    pairs = listed_pairs(system)
    assert [(i, j) for i, j, _ in pairs] == [(0, 1), (1, 0), (2, 3), (3, 2)]


def test_only_a_small_part_of_a_large_sparse_slab_is_searched():
    steps = 8.0 * np.arange(400)
    positions = np.stack([np.zeros(400), steps, steps], axis=1)
    system = System(np.ones(400, dtype=int), positions, np.diag([3.5, 0, 0]), [True, False, False])
    assert n_cubes(system, 4.0) < 1_000_000
    pairs = listed_pairs(system, 4.0)
    assert len(pairs) == 800


def test_empty_space_inside_a_skewed_periodic_cell_keeps_all_shifts():
    cell = np.array([[4.0, 0, 0], [1.5, 4.0, 0], [700.0, 300.0, 900.0]])
    clusters = np.random.default_rng(0).uniform(0, 3, size=(12, 3))
    clusters[6:] += 0.41 * cell[2]
    away = np.random.default_rng(1).integers(-2, 3, size=(12, 3)) @ cell
    system = System(np.ones(12, dtype=int), clusters + away, cell, True)
    assert listed_pairs(system) == ase_pairs(system)


def test_a_very_flat_cell_has_the_pairs_of_its_images():
    cell = [[3.0, 0, 0], [0, 3.0, 0], [3.0, 3.0, 0.023]]
    system = System([1], np.zeros((1, 3)), cell, True)
    assert n_cubes(system) == 1
    pairs = listed_pairs(system)
    assert len(pairs) == 2 * (CUTOFF // 0.023)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(-50, 50), min_size=9, max_size=9))
def test_a_reduced_cell_spans_the_same_lattice_and_is_compact(numbers):
    cell = np.array(numbers).reshape(3, 3)
    assume(abs(np.linalg.det(cell)) > 1e-3)
    basis = reduced_basis(cell)
    np.testing.assert_array_equal(basis, np.rint(basis))
    assert round(abs(np.linalg.det(basis))) == 1
    short = basis @ cell
    assert np.linalg.norm(short, axis=1).prod() < 2.0 * abs(np.linalg.det(short)) * (1 + 1e-9)


def test_float32_keeps_its_digits_however_far_atoms_have_drifted():
    cell, positions = np.eye(3) * 6.0, np.array([[1.0, 1, 1], [2.1, 1.3, 0.9]])
    near = System([1, 1], positions, cell, True)
    far = near.moved(positions + np.array([[10000, 0, 0], [-9000, 2000, 0]]) @ cell)
    batches = [Batch.from_systems([s], CUTOFF, torch.float32) for s in (near, far)]
    vectors = [batch.displacements() for batch in batches]
    torch.testing.assert_close(*vectors, rtol=0, atol=1e-6)


def hard_batch():
    """Return systems of every kind, large enough for both of the GPU library's methods."""
    rng = np.random.default_rng(5)
    cells = [rng.normal(scale=0.4, size=(3, 3)) + np.eye(3) * n for n in (1.2, 3.0, 8.0)]
    mixes = [(1, 1, 1), (1, 1, 0), (0, 1, 0), (0, 0, 0)]
    systems = [
        System([1] * n, rng.uniform(-9, 9, size=(n, 3)), cell, np.array(pbc, dtype=bool))
        for cell in cells
        for pbc in mixes
        for n in (1, 4)
    ]
    large = System(np.ones(1100, dtype=int), rng.uniform(0, 24, size=(1100, 3)), np.eye(3) * 24, 1)
    return systems, [*systems[:4], large]


def device_pairs(systems, dtype, device):
    geometry = fold(systems, CUTOFF)
    arrays = (geometry.search_positions, geometry.search_cells, geometry.search_basis)
    tensors = [torch.from_numpy(array).to(device, dtype) for array in arrays]
    sizes = geometry.n_atoms_per_system
    pairs, shifts, n_pairs = search_on_device(*tensors, sizes, CUTOFF)
    expected = search(geometry, CUTOFF)
    assert n_pairs == expected.n_pairs_per_system
    assert (pairs[0].diff() >= 0).all()
    return as_set(*pairs.cpu().numpy(), shifts.cpu().numpy()), as_set(
        *expected.pairs, expected.shifts
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("which", [0, 1], ids=["small", "large"])
def test_the_list_for_gpus_run_on_the_cpu_has_the_same_pairs(which, dtype):
    pytest.importorskip("nvalchemiops", reason="nvalchemi-toolkit-ops is not installed")
    pairs, expected = device_pairs(hard_batch()[which], dtype, torch.device("cpu"))
    assert pairs == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("which", [0, 1], ids=["small", "large"])
def test_the_list_from_a_gpu_has_the_same_pairs(which, dtype):
    pytest.importorskip("nvalchemiops", reason="nvalchemi-toolkit-ops is not installed")
    pairs, expected = device_pairs(hard_batch()[which], dtype, torch.device("cuda"))
    assert pairs == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_batch_on_a_gpu_has_the_same_displacements_as_on_the_cpu():
    systems, _ = hard_batch()
    here, there = (Batch.from_systems(systems, CUTOFF, device=d) for d in ("cpu", "cuda"))
    assert there.n_pairs_per_system == here.n_pairs_per_system
    lengths = [batch.displacements().norm(dim=1).cpu().sort().values for batch in (here, there)]
    torch.testing.assert_close(*lengths, rtol=0, atol=1e-9)
