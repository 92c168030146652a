"""The bundled model `water`: its files, its declared errors, and properties of liquid water."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch

from twinforce_models import registry
from twinforce_models.contract.contract import check_potential
from twinforce_models.prediction import predict
from twinforce_models.training.config import read_recipe
from twinforce_proto import OUTPUTS, System

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "models" / "twinforce_models" / "bundled" / "water"
TRAINING = ROOT / "models" / "twinforce_models" / "training"


@pytest.fixture(scope="module")
def water():
    return registry.load("water")


@pytest.fixture(scope="module")
def box():
    atoms = ase.io.read(ROOT / "demo" / "water64.xyz")
    return System(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_keeps_the_contract(dtype):
    check_potential(registry.load("water", dtype=dtype).potential).raise_if_broken()


def test_the_model_folder_is_small_and_contains_no_pickle():
    files = {path.name: path for path in FOLDER.iterdir()}
    assert set(files) == {"model.safetensors", "model.json", "CARD.md"}
    assert sum(path.stat().st_size for path in files.values()) < 2 * 2**20
    header = files["model.safetensors"].read_bytes()[8:9]
    assert header == b"{"


def test_the_metadata_match_the_bundled_recipes(water):
    first, _ = read_recipe(TRAINING / "water.toml")
    second, _ = read_recipe(TRAINING / "water_agreement.toml")
    recipe, about = read_recipe(TRAINING / "water_refinement.toml")
    origin = water.info.metadata["started_from"]
    assert origin["started_from"]["recipe_sha256"] == first.sha256()
    assert origin["recipe_sha256"] == second.sha256()
    assert water.info.metadata["recipe_sha256"] == recipe.sha256()
    assert water.info.metadata["licence"] == about.licence
    assert {source["doi"] for source in water.info.metadata["training_data"]} == {
        "10.1073/pnas.1815117116",
        "10.1063/5.0016004",
    }


def test_the_declared_errors_are_within_the_accepted_bounds(water):
    errors = water.info.metadata["errors"]
    assert errors["n_test_systems"] == 69
    assert errors["conservative_forces_mae_mev_per_angstrom"] <= 35
    assert errors["direct_forces_mae_mev_per_angstrom"] <= 45
    assert errors["energy_mae_mev_per_atom"] <= 1
    assert errors["nonconservativity_mean"] <= 0.02


def test_the_model_card_has_errors_data_and_limitations(water):
    for said in ("conservative_forces_mae", "nonconservativity", "10.1063", "ice", "CC-BY-SA-4.0"):
        assert said in water.info.card


def test_both_forces_agree_on_liquid_water_and_the_direct_stress_on_the_pressure(water, box):
    (prediction,) = predict(water.potential, [box], OUTPUTS)
    difference = prediction.direct_forces - prediction.conservative_forces
    size = np.sqrt(np.square(prediction.conservative_forces).mean())
    assert 0.4 < size < 2.0
    assert 0 < np.sqrt(np.square(difference).mean()) < 0.1 * size
    np.testing.assert_allclose(prediction.direct_forces.sum(axis=0), 0.0, atol=1e-4)
    pressures = [np.trace(prediction.direct_stress), np.trace(prediction.conservative_stress)]
    assert abs(pressures[0] - pressures[1]) / 3 < 0.01  # eV/Å³; 1.6 GPa


def test_float32_energies_are_accurate_to_a_hundredth_of_a_mev_per_atom(water, box):
    exact = registry.load("water", dtype=torch.float64).potential
    single, double = (predict(p, [box], {"energy"})[0].energy for p in (water.potential, exact))
    assert abs(single - double) / len(box) < 1e-5
