"""The bundled model `elements6`: its files, its declared errors, and properties of six crystals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.units import GPa

from twinforce_models import registry
from twinforce_models.contract.contract import check_potential
from twinforce_models.prediction import predict
from twinforce_models.training.config import read_recipe
from twinforce_models.training.dataset import to_system
from twinforce_proto import OUTPUTS

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "models" / "twinforce_models" / "bundled" / "elements6"
RECIPE = ROOT / "models" / "twinforce_models" / "training" / "elements6.toml"

# Lattice constants at which the stress of the labels vanishes, in Å: from `bench.studies.elements`.
LATTICE = {
    "Li": ("bcc", 3.438),
    "Mo": ("bcc", 3.169),
    "Ni": ("fcc", 3.505),
    "Cu": ("fcc", 3.614),
    "Si": ("diamond", 5.469),
    "Ge": ("diamond", 5.783),
}


@pytest.fixture(scope="module")
def elements6():
    return registry.load("elements6")


def stress_error(model, symbol):
    """Return the sum of the declared root mean squares of both stresses, in GPa."""
    errors = model.info.metadata["errors_by_elements"][symbol]
    return errors["conservative_stress_rmse_gpa"] + errors["direct_stress_rmse_gpa"]


def crystal(symbol, length, stretch=0.0):
    """Return a conventional cell of 2 to 8 atoms, stretched along x."""
    atoms = bulk(symbol, LATTICE[symbol][0], length, cubic=True)
    atoms.set_cell(atoms.cell.array @ np.diag([1 + stretch, 1.0, 1.0]), scale_atoms=True)
    return atoms


def test_it_keeps_the_contract():
    check_potential(registry.load("elements6", dtype=torch.float64).potential).raise_if_broken()


def test_it_keeps_the_contract_in_single_precision_on_crystals_of_its_elements(elements6):
    systems = []
    for symbol, (_, length) in LATTICE.items():
        atoms = crystal(symbol, length, 0.02)
        atoms.rattle(0.1, seed=1)
        systems.append(to_system(atoms))
    check_potential(elements6.potential, systems).raise_if_broken()


def test_the_model_folder_is_small_and_contains_no_pickle():
    files = {path.name: path for path in FOLDER.iterdir()}
    assert set(files) == {"model.safetensors", "model.json", "CARD.md"}
    assert sum(path.stat().st_size for path in files.values()) < 2 * 2**20
    assert files["model.safetensors"].read_bytes()[8:9] == b"{"


def test_the_metadata_match_the_bundled_recipe(elements6):
    recipe, about = read_recipe(RECIPE)
    assert elements6.info.metadata["recipe_sha256"] == recipe.sha256()
    assert elements6.info.metadata["licence"] == about.licence == "BSD-3-Clause"
    assert elements6.info.metadata["training_data"][0]["doi"] == "10.1021/acs.jpca.9b08723"
    assert elements6.info.elements == (3, 14, 28, 29, 32, 42)
    assert set(elements6.info.outputs) == set(OUTPUTS)


def test_both_forces_and_both_stresses_agree_on_shaken_crystals(elements6):
    known = elements6.info.metadata["force_disagreement"]
    for symbol, (_, length) in LATTICE.items():
        atoms = crystal(symbol, length, 0.01).repeat(2)
        atoms.rattle(0.04, seed=3)
        (prediction,) = predict(elements6.potential, [to_system(atoms)], OUTPUTS)
        apart = prediction.direct_forces - prediction.conservative_forces
        size = np.sqrt(np.square(prediction.conservative_forces).mean())
        assert np.sqrt(np.square(apart).mean()) < 0.25 * size, symbol
        assert np.sqrt(np.square(apart).mean()) < known[symbol]["max"], symbol
        stresses = (prediction.direct_stress - prediction.conservative_stress) / GPa
        assert np.abs(stresses).max() < 3.0 * stress_error(elements6, symbol), symbol


@pytest.mark.parametrize("symbol", LATTICE)
def test_the_stress_of_a_crystal_vanishes_at_the_labeled_lattice_constant(elements6, symbol):
    length = LATTICE[symbol][1]
    systems = [to_system(crystal(symbol, scale * length)) for scale in (0.99, 1.0, 1.01)]
    stresses = [
        np.trace(predict(elements6.potential, [system], OUTPUTS)[0].conservative_stress)
        for system in systems
    ]
    assert stresses[0] < 0 < stresses[2]
    at_rest = -0.02 * stresses[1] / (stresses[2] - stresses[0])
    assert abs(at_rest) < 0.004


def test_the_energy_of_stretching_matches_the_conservative_stress():
    potential = registry.load("elements6", dtype=torch.float64).potential
    for symbol, (_, length) in LATTICE.items():
        energies = [
            predict(potential, [to_system(crystal(symbol, length, 0.02 + h))], {"energy"})[0].energy
            for h in (-1e-4, 1e-4)
        ]
        atoms = crystal(symbol, length, 0.02)
        (prediction,) = predict(potential, [to_system(atoms)], {"conservative_stress"})
        slope = (energies[1] - energies[0]) / 2e-4 * 1.02 / atoms.get_volume()
        assert slope == pytest.approx(prediction.conservative_stress[0, 0], abs=1e-6)
