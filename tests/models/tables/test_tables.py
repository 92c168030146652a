"""Batches as tables: the same results as without tables, whatever the padding."""

import dataclasses
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch

from tests import pets
from tests.systems import crystal
from twinforce_models import registry
from twinforce_models.neighbors.folding import fold
from twinforce_models.neighbors.search import neighbor_list
from twinforce_models.prediction import predict
from twinforce_models.tables.capacity import NeighborCapacity
from twinforce_models.tables.layout import Staging, reach_of, size_for
from twinforce_models.tables.predictor import TablePredictor
from twinforce_models.tables.search import check_search, reversed_places, search
from twinforce_models.tables.table import packed
from twinforce_proto import OUTPUTS, STRESSES, System

ROOT = Path(__file__).parents[3]
CUTOFF = 4.5
CPU = torch.device("cpu")
OPEN = frozenset(OUTPUTS) - STRESSES
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, ON_GPU])]
ARCHITECTURES = {
    "plain": {},
    "adaptive": {"num_neighbors_adaptive": 6.0},
    "grid": {"num_neighbors_adaptive": 6.0, "adaptive_cutoff_method": "grid"},
    "residual": {"featurizer_type": "residual", "num_neighbors_adaptive": 6.0},
}


def waters(n_systems=3, n_atoms=12):
    """Return systems of hydrogen and oxygen: some crystals, a molecule, an atom, skewed cells."""
    found = []
    for seed in range(n_systems):
        system = crystal(n_atoms + seed, seed)
        numbers = np.random.default_rng(seed).choice([1, 8], len(system))
        found.append(System(numbers, 0.6 * system.positions, 0.6 * system.cell, pbc=True))
    return found


def hard_systems():
    """Return `waters` and systems with every kind of boundary, all of hydrogen and oxygen."""
    special = [
        dataclasses.replace(each, atomic_numbers=np.where(each.atomic_numbers == 6, 8, 1))
        for each in pets.systems()
    ]
    far = [dataclasses.replace(each, positions=each.positions + 1e3) for each in waters(1)]
    return [*waters(), *special, *far]


def places_of(systems, cutoff=CUTOFF, device=CPU):
    geometry = fold(systems, cutoff)
    size = size_for(len(geometry.positions), len(systems))
    staging = Staging(size, device)
    staging.fill(systems, geometry, reach_of(geometry.periods, cutoff))
    staging.send()
    return staging.places, geometry


def assert_same(found, expected, outputs, atol=1e-9):
    for one, other in zip(found, expected, strict=True):
        for name in outputs:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=atol)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pets")
    return {
        name: pets.save_both(pets.make_pet(**hypers), folder, name)[0]
        for name, hypers in ARCHITECTURES.items()
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cutoff", [2.0, 4.5, 5.2])
def test_a_table_has_the_pairs_of_the_neighbor_list(cutoff, dtype, device):
    systems = hard_systems()
    places, geometry = places_of(systems, cutoff, torch.device(device))
    table = search(places, cutoff, 400, dtype)
    expected = neighbor_list(systems, cutoff)
    i, j = expected.pairs
    shifts = expected.shifts - geometry.folds[i] + geometry.folds[j]
    keys = packed(torch.from_numpy(shifts)).tolist()
    wanted = sorted(zip(i.tolist(), j.tolist(), keys, strict=True))
    atom, place = (each.cpu() for each in table.is_real.nonzero(as_tuple=True))
    neighbors, shifts = table.neighbors.cpu(), table.shifts.cpu()
    found = [atom, neighbors[atom, place], shifts[atom, place]]
    assert sorted(zip(*(each.tolist() for each in found), strict=True)) == wanted
    n_real = len(geometry.positions)
    assert not table.counts[n_real:].any()
    lengths = table.vectors.norm(dim=-1)
    assert (lengths[table.is_real] < cutoff * (1 + 1e-5)).all()
    torch.testing.assert_close(
        lengths[~table.is_real], torch.full_like(lengths[~table.is_real], cutoff)
    )


@pytest.mark.parametrize("device", DEVICES)
def test_the_reverse_index_is_its_own_inverse(device):
    places, _ = places_of(hard_systems(), device=torch.device(device))
    table = search(places, CUTOFF, 200, torch.float32)
    back = reversed_places(table.neighbors, table.shifts, table.counts).view(-1)
    assert torch.equal(back[back], torch.arange(len(back), device=back.device))
    is_real = table.is_real.view(-1)
    vectors = table.vectors.view(-1, 3)
    assert torch.equal(vectors[back][is_real], -vectors[is_real])
    assert torch.equal(table.neighbors.view(-1)[back], torch.arange(len(back), device=back.device)
                       // table.neighbors.shape[1])  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_the_search_self_check_passes(device):
    check_search(torch.device(device))


def test_neighbors_beyond_the_capacity_are_counted():
    places, _ = places_of(waters())
    full, cut = (search(places, CUTOFF, width, torch.float64) for width in (200, 5))
    assert torch.equal(full.counts, cut.counts)
    assert torch.equal(full.neighbors[:, :5], cut.neighbors)


@pytest.mark.parametrize("device", DEVICES)
def test_the_native_network_predicts_the_same_from_a_table(device):
    potential = registry.load("water", dtype="float64", device=device).potential
    predictor, systems = TablePredictor(potential), hard_systems()
    for outputs in (OPEN, *({name} for name in OPEN)):
        found = predictor.predict(systems, frozenset(outputs))
        assert_same(found, predict(potential, systems, outputs), outputs)
    with_cell = [system for system in systems if system.cell.any()]
    assert len({system.pbc.sum() for system in with_cell}) == 4
    outputs = frozenset(OUTPUTS)
    expected = predict(potential, with_cell, outputs)
    assert_same(predictor.predict(with_cell, outputs), expected, outputs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_pet_predicts_the_same_from_a_table(checkpoints, architecture, device):
    potential = registry.load(checkpoints[architecture], device=device).potential
    predictor = TablePredictor(potential)
    with_cell = [system for system in pets.systems() if system.cell.any()]
    for systems, outputs in (
        (pets.systems(), OPEN),
        (with_cell, frozenset(OUTPUTS)),
        (pets.systems(), frozenset({"direct_forces"})),
        (pets.systems(), frozenset({"energy"})),
        (pets.systems(), frozenset({"conservative_forces"})),
    ):
        expected = predict(potential, systems, outputs)
        assert_same(predictor.predict(systems, outputs), expected, outputs)


@pytest.mark.parametrize("device", DEVICES)
def test_neither_capacity_nor_other_systems_change_the_prediction_of_a_system(device):
    potential = registry.load("water", dtype="float32", device=device).potential
    system = water64()
    (alone,) = TablePredictor(potential).predict([system], OPEN)
    wide = TablePredictor(potential)
    wide.predict([dense()], OPEN)
    together = wide.predict([*waters(1), system, *waters(1)], OPEN)[1]
    scale = np.abs(alone.conservative_forces).max()
    for name in ("conservative_forces", "direct_forces"):
        np.testing.assert_allclose(
            getattr(together, name), getattr(alone, name), rtol=0, atol=1e-5 * scale
        )


def water64():
    atoms = ase.io.read(ROOT / "demo" / "water64.xyz")
    return System(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


def dense():
    system = waters(1, 64)[0]
    return System(system.atomic_numbers, 0.8 * system.positions, 0.8 * system.cell, pbc=True)


@pytest.mark.parametrize("device", DEVICES)
def test_repeated_predictions_of_the_same_systems_are_bitwise_equal(device):
    potential = registry.load("water", dtype="float32", device=device).potential
    predictor, systems = TablePredictor(potential), waters()
    first, second = (predictor.predict(systems, OPEN) for _ in range(2))
    assert_same(first, second, OPEN, atol=0)


def test_a_batch_that_needs_too_large_a_table_is_not_evaluated_with_tables():
    potential = registry.load("water").potential
    predictor = TablePredictor(potential, max_entries=3000)
    assert predictor.predict([dense()], OPEN) is None
    assert predictor.predict(waters(1), OPEN) is not None


def test_a_cell_much_smaller_than_the_cutoff_is_evaluated_without_tables():
    potential = registry.load("water").potential
    cell = [[1.0, 0.0, 0.0], [1.0, 0.06, 0.0], [0.0, 0.0, 9.0]]  # faces 0.06 Å apart
    tiny = System([1], [[0.0, 0.0, 0.0]], cell, pbc=True)
    assert TablePredictor(potential).predict([tiny], OPEN) is None


def test_a_cell_with_far_too_many_images_is_evaluated_without_tables():
    system = waters(1)[0]
    basis = np.array([[127, 8, -15], [0, 1, 0], [144, 8, -17]])  # of the same lattice
    assert round(np.linalg.det(basis)) == 1
    skewed = dataclasses.replace(system, cell=basis @ system.cell)
    potential = registry.load("water", dtype="float64").potential
    predictor = TablePredictor(potential)
    assert predictor.predict([skewed], OPEN) is None
    assert_same(predictor.predict([system], OPEN), predict(potential, [skewed], OPEN), OPEN, 1e-6)


def test_a_toy_is_evaluated_without_tables():
    potential = registry.load("toy:lennard-jones").potential
    assert TablePredictor(potential).predict([crystal()], frozenset({"energy"})) is None


def test_sizes_include_a_padding_system_and_waste_little():
    for n_atoms in (1, 31, 64, 192, 1000, 6144, 50_000):
        size = size_for(n_atoms, 1)
        assert n_atoms <= size.n_atoms <= max(32, 1.34 * n_atoms)
        assert size.n_systems >= 2
    size = size_for(100, 100)
    assert size.n_systems > 100
    sizes = {size_for(n, 1).n_atoms for n in range(512, 1025)}
    assert len(sizes) <= 5


def test_the_capacity_grows_immediately_and_shrinks_after_many_smaller_batches():
    capacity = NeighborCapacity()
    assert not capacity.fits_or_grows(50, 0)
    assert capacity.fits_or_grows(50, 0)
    assert not capacity.fits_or_grows(50, 30)
    assert (capacity.listed, capacity.seen) == (56, 32)
    for _ in range(600):
        assert capacity.fits_or_grows(20, 0)
    assert capacity.listed == 56  # the batch with 50 still counts in the first window
    for _ in range(600):
        assert capacity.fits_or_grows(20, 0)
    assert (capacity.listed, capacity.seen) == (24, 16)


@pytest.mark.gpu
@ON_GPU
def test_a_size_is_recorded_once_and_replayed_after_that(checkpoints):
    for spec in ("water", checkpoints["adaptive"]):
        potential = registry.load(spec, device="cuda", dtype="float64").potential
        predictor = TablePredictor(potential)
        for n_expected in (0, 1, 1):
            predictor.predict(waters(), OPEN)
            assert predictor.n_recordings == n_expected
        for systems in (waters(), waters(2, 13), waters(3, 11)):
            expected = predict(potential, systems, OPEN)
            assert_same(predictor.predict(systems, OPEN), expected, OPEN)
        assert predictor.n_recordings == 1
        predictor.forget()
        assert_same(predictor.predict(systems, OPEN), expected, OPEN)
        assert predictor.n_recordings == 2
