"""float32 keeps its digits: no error depends on the size of the box or the place of the atoms."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk

from tests import pets
from tests.models.potentials.test_compilation import fused_in_python
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.neighbors.walker_lists import WalkerLists
from twinforce_models.nonconservativity import direct_jacobian
from twinforce_models.prediction import predict, predict_batch, split
from twinforce_models.tables.predictor import TablePredictor
from twinforce_proto import System

START = Path(__file__).parents[2] / "demo" / "water64.xyz"
FORCES = ("conservative_forces", "direct_forces")
ASKED = frozenset({"energy", *FORCES})
ROUNDING = 1e-5  # of a network in float32, relative to the largest force
SKEW = np.array([[1, 0, 0], [10, 1, 0], [-10, 10, 1]])


def waters(length=0.0, at=0.0, basis=None, **options):
    """Return eight molecules of water, a lattice of which is `basis` times a cube."""
    atoms = ase.io.read(START)[:24]
    cell = length * (np.eye(3) if basis is None else basis)
    return System(atoms.numbers, atoms.positions + at, cell, **options)


def scattered(system):
    """Return the same atoms up to 50 lattice vectors outside of the cell."""
    cells = np.random.default_rng(0).integers(-50, 51, size=(len(system), 3))
    return system.moved(system.positions + cells @ system.cell)


PLACES = {
    "box of 30 Å": waters(30.0, pbc=True),
    "box of 300 Å": waters(300.0, 210.0, pbc=True),
    "box of 4000 Å": waters(4e3, 2800.0, pbc=True),
    "box of 100,000 Å": waters(1e5, 7e4, pbc=True),
    "across the edges of a large box": waters(1e5, -4.0, pbc=True),
    "slab in a large box": waters(4e3, 2800.0, pbc=[True, True, False]),
    "far away, periodic": waters(30.0, 1e5, pbc=True),
    "far away, open": waters(at=-1e5),
    "many cells outside": scattered(waters(30.0, pbc=True)),
    "skewed basis": waters(30.0, basis=SKEW, pbc=True),
}


def flat(potential, system):
    return predict(potential, [system], ASKED)[0]


def in_a_batch(potential, system):
    other = System(system.atomic_numbers[:1], [[0.0, 0.0, 0.0]], 6 * np.eye(3), True)
    return predict(potential, [other, system, other], ASKED)[1]


def as_a_walker(potential, system):
    """Return the prediction from a neighbor list of an earlier step."""
    lists = WalkerLists()
    for noise in (0.05, 0.0):
        moved = system.moved(system.positions + noise * np.sin(np.arange(len(system)))[:, None])
        batch = Batch.from_systems(
            [moved], potential.cutoff, potential.dtype, lists=lists, walkers=["walker"]
        )
    assert lists.n_searches == 1
    return split(predict_batch(potential, batch, ASKED), batch)[0]


def in_a_table(potential, system):
    return TablePredictor(potential).predict([system], ASKED)[0]


def in_compiled_form(potential, system):
    return predict(fused_in_python(potential), [system], ASKED)[0]


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    """Return specs of a potential in float32 and of the same weights in float64, by name."""
    folder = tmp_path_factory.mktemp("pets")
    checkpoint, exported = pets.save_both(pets.make_pet(torch.float64), folder, "double")
    single = pets.save_both(pets.make_pet(torch.float32), folder, "single")[1]
    adaptive = pets.save_both(pets.make_pet(num_neighbors_adaptive=6.0), folder, "adaptive")[0]
    composed = f"conservative:water+direct:{checkpoint}"
    specs = {"water": "water", "pet": checkpoint, "adaptive pet": adaptive, "composed": composed}
    same = {name: (spec, spec) for name, spec in specs.items()}
    return same | {"toy": ("toy:harmonic",) * 2, "exported": (single, exported)}


def both(specs, name):
    dtypes = ("float32", "float64")
    return [
        registry.load(spec, device="cpu", dtype=dtype).potential
        for spec, dtype in zip(specs[name], dtypes, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "way"),
    [
        *((name, flat) for name in ("water", "pet", "adaptive pet", "toy")),
        *((name, way) for name in ("water", "pet") for way in (in_a_batch, as_a_walker)),
        *((name, in_a_table) for name in ("water", "pet", "adaptive pet")),
        ("composed", flat),
        ("composed", as_a_walker),
        ("water", in_compiled_form),
        ("exported", flat),
    ],
)
def test_forces_in_float32_are_as_exact_anywhere(specs, name, way):
    single, double = both(specs, name)
    places = PLACES
    if way is in_a_table:  # it has no room for the images of a very skewed basis
        places = {place: PLACES[place] for place in PLACES if place != "skewed basis"}
    if name == "exported":  # TorchScript is slow
        places = {place: PLACES[place] for place in ("box of 4000 Å", "far away, open")}
    for place, system in places.items():
        found, expected = way(single, system), flat(double, system)
        for kind in FORCES:
            one, other = getattr(found, kind), getattr(expected, kind)
            bound = ROUNDING * np.abs(other).max()
            np.testing.assert_allclose(one, other, rtol=0, atol=bound, err_msg=f"{place}, {kind}")


def test_jacobians_in_float32_are_as_exact_in_a_large_box(specs):
    single, double = both(specs, "pet")
    for place in ("box of 30 Å", "box of 100,000 Å"):
        one, other = (direct_jacobian(each, PLACES[place]).double() for each in (single, double))
        assert (one - other).abs().max() < ROUNDING * other.abs().max()


CRYSTALS = {
    "copper, primitive cell": bulk("Cu", "fcc", a=3.61),
    "copper, 44 Å": bulk("Cu", "fcc", a=3.61, cubic=True).repeat((12, 2, 2)),
    "rock salt": bulk("LiCu", "rocksalt", a=4.9).repeat(3),
    "silicon": bulk("Si", "diamond", a=5.43, cubic=True).repeat(2),
}


@pytest.mark.parametrize("name", CRYSTALS)
def test_atoms_of_a_perfect_crystal_feel_no_force(name):
    atoms = CRYSTALS[name]
    potential = registry.load("elements6", device="cpu", dtype="float32").potential
    here = System(atoms.numbers, atoms.positions, atoms.cell.array, True)
    away = here.moved(here.positions + np.array([1e3, -7e4, 0.1]))
    skewed = here.moved(here.positions, SKEW @ here.cell)
    for system in (here, away, skewed):
        for way in (flat, in_compiled_form, in_a_batch):
            found = way(potential, system)
            for kind in FORCES:
                assert np.abs(getattr(found, kind)).max() < 1e-6


def test_sums_over_many_atoms_are_in_float64():
    """A crystal of n atoms has n times the energy and the same stress as one atom of it."""
    one = bulk("Cu", "fcc", a=3.5)
    many = one.repeat(10)
    potential = registry.load("elements6", device="cpu", dtype="float32").potential
    asked = {"energy", "conservative_stress", "direct_stress"}
    alone, together = (
        predict(potential, [System(a.numbers, a.positions, a.cell.array, True)], asked)[0]
        for a in (one, many)
    )
    assert together.energy / len(many) == pytest.approx(alone.energy, rel=0, abs=1e-6)
    for name in ("conservative_stress", "direct_stress"):
        np.testing.assert_allclose(getattr(together, name), getattr(alone, name), atol=1e-7)
