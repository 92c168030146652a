"""The stress of any system with a cell is per the volume of the cell, whatever is periodic."""

import numpy as np
import pytest
import torch

from tests import pets
from tests.models.potentials.test_compilation import fused_in_python
from tests.models.tables.test_tables import water64
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.neighbors.walker_lists import WalkerLists
from twinforce_models.prediction import predict, predict_batch, split
from twinforce_models.tables.predictor import TablePredictor
from twinforce_proto import System, UnsupportedOutputError

STRESSES = ("conservative_stress", "direct_stress")
STEP = 1e-4


def waters(cell, pbc):
    bulk = water64()
    return System(bulk.atomic_numbers[:24], bulk.positions[:24], cell, pbc)


BOX = np.array([[9.0, 0.5, 0.0], [0.0, 8.5, 1.0], [2.0, 0.0, 14.0]])
SYSTEMS = {
    "crystal": waters(BOX, True),
    "slab": waters(BOX, [True, True, False]),
    "slab along z and x": waters(BOX, [True, False, True]),
    "wire": waters(BOX, [False, False, True]),
    "molecules in a box": waters(BOX, False),
    "molecules outside of their box": waters(0.1 * BOX, False),
    "left-handed slab": waters(np.diag([9.0, 9.0, -14.0]), [True, True, False]),
}


def alone(potential):
    return [predict(potential, [system], STRESSES)[0] for system in SYSTEMS.values()]


def in_a_batch(potential):
    return predict(potential, [*SYSTEMS.values()], ("energy", *STRESSES))


def as_walkers(potential):
    """Return predictions from neighbor lists of an earlier step."""
    lists = WalkerLists()
    for noise in (0.05, 0.0):
        moved = [each.moved(each.positions + noise * np.eye(24, 3)) for each in SYSTEMS.values()]
        batch = Batch.from_systems(moved, potential.cutoff, lists=lists, walkers=list(SYSTEMS))
    assert lists.n_searches == len(SYSTEMS)
    return split(predict_batch(potential, batch, STRESSES), batch)


def in_a_table(potential):
    return TablePredictor(potential).predict([*SYSTEMS.values()], frozenset(STRESSES))


def in_compiled_form(potential):
    return in_a_batch(fused_in_python(potential))


@pytest.fixture(scope="module")
def water():
    return registry.load("water", device="cpu", dtype="float64").potential


@pytest.fixture(scope="module")
def expected(water):
    """Return the conservative stress of each system, from energies of strained copies."""
    return {name: from_energies(water, system) for name, system in SYSTEMS.items()}


def from_energies(potential, system):
    found = np.zeros((3, 3))
    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        strain = np.zeros((3, 3))
        strain[a, b] += STEP / 2
        strain[b, a] += STEP / 2
        both = [
            system.moved(system.positions @ matrix, system.cell @ matrix)
            for matrix in (np.eye(3) + strain, np.eye(3) - strain)
        ]
        one, other = predict(potential, both, ["energy"])
        found[a, b] = found[b, a] = (one.energy - other.energy) / (2 * STEP)
    return found / abs(np.linalg.det(system.cell))


@pytest.mark.parametrize("way", [alone, in_a_batch, as_walkers, in_a_table, in_compiled_form])
def test_a_stress_is_the_derivative_of_the_energy_per_volume(water, expected, way):
    for found, one, (name, stress) in zip(way(water), alone(water), expected.items(), strict=True):
        np.testing.assert_allclose(
            found.conservative_stress, stress, rtol=1e-5, atol=1e-8, err_msg=name
        )
        np.testing.assert_allclose(found.direct_stress, one.direct_stress, atol=1e-12, err_msg=name)


def test_a_stress_does_not_depend_on_the_vacuum_but_for_the_volume(water):
    """A slab in twice the volume has half the stress, of both kinds."""
    slab = SYSTEMS["slab"]
    taller = slab.moved(slab.positions, slab.cell * [[1], [1], [2]])
    one, other = predict(water, [slab, taller], STRESSES)
    for kind in STRESSES:
        np.testing.assert_allclose(getattr(other, kind), getattr(one, kind) / 2, atol=1e-12)


def test_an_exported_model_has_a_direct_stress_for_periodic_systems_only(tmp_path):
    checkpoint, exported = pets.save_both(pets.make_pet(torch.float64), tmp_path)
    native, foreign = (registry.load(path).potential for path in (checkpoint, exported))
    crystal, slab = pets.systems()[:2]
    (one,), (other,) = (
        predict(each, [slab], {"conservative_stress"}) for each in (native, foreign)
    )
    np.testing.assert_allclose(one.conservative_stress, other.conservative_stress, atol=1e-10)
    np.testing.assert_allclose(
        one.conservative_stress, from_energies(native, slab), rtol=1e-4, atol=1e-9
    )
    assert np.abs(predict(native, [slab], STRESSES)[0].direct_stress).max() > 1e-6
    for potential in (
        foreign,
        registry.load(f"conservative:{checkpoint}+direct:{exported}").potential,
    ):
        text = (
            r"^systems\[1\]: pbc: expected a system periodic in all .* no direct_stress otherwise"
        )
        with pytest.raises(UnsupportedOutputError, match=text):
            predict(potential, [crystal, slab], STRESSES)
