"""SevenNet beside MACE, which cannot share an environment, served by one service.

`make test-models` runs this in the environment of MACE, with that of SevenNet beside it.
"""

import json
import os
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mace", reason="mace is not installed: pip install -e '.[mace]'")

from tests.conftest import free_ports
from tests.models.families.systems import ours, periodic
from tests.models.families.weights import weights
from twinforce import Client, Integrator, Start
from twinforce_models import registry
from twinforce_models.prediction import predict
from twinforce_service.embedded import run_in_thread

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]

FOLDER = Path(os.environ.get("TWINFORCE_ENVIRONMENT_FOLDER", "nowhere")).absolute()
PYTHON = FOLDER / "sevenn" / "bin" / "python"
FORCES = ("energy", "conservative_forces")
REFERENCE = """
import json, sys, warnings
warnings.simplefilter("ignore")
from ase import Atoms
from sevenn.calculator import SevenNetCalculator
calculator = SevenNetCalculator("7net-0", device="cpu")
answers = []
for numbers, positions, cell in json.load(sys.stdin):
    atoms = Atoms(numbers, positions, cell=cell, pbc=True, calculator=calculator)
    answers.append((atoms.get_potential_energy(force_consistent=True), atoms.get_forces().tolist()))
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def server():
    if not PYTHON.is_file():
        pytest.skip(f"no environment of SevenNet at {PYTHON}: make test-models-together")
    mace = f"mace:{weights('mace_mp_small.model')}"
    models = {
        "mace": mace,
        "water": "water",
        "seven": "sevenn:7net-0#env=sevenn",
        "fast": "conservative:sevenn:7net-0#env=sevenn+direct:water",
    }
    settings = free_ports(model=models, dtype="float32", environment_folder=str(FOLDER))
    with run_in_thread(settings) as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.grpc_url) as client:
        yield client


def crystals():
    found = periodic()
    return [found[name] for name in ("Cu", "NaCl", "water")]


def reference(systems):
    """Return energies and forces of SevenNet's own calculator in its own environment."""
    asked = [(a.numbers.tolist(), a.positions.tolist(), a.cell.tolist()) for a in systems]
    command = [PYTHON, "-c", REFERENCE]
    answered = subprocess.run(
        command, input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(answered.stdout.splitlines()[-1])


def assert_close(prediction, energy, forces):
    forces = np.array(forces)
    assert prediction.energy == pytest.approx(energy, abs=1e-5 * len(forces))
    tolerance = 3e-5 * max(np.abs(forces).max(), 1.0)
    np.testing.assert_allclose(prediction.conservative_forces, forces, atol=tolerance)


def test_sevennet_agrees_with_its_calculator_in_its_environment(client):
    predictions = client.predict([ours(atoms) for atoms in crystals()], FORCES, "seven")
    for prediction, expected in zip(predictions, reference(crystals()), strict=True):
        assert_close(prediction, *expected)
    assert client.model("seven").metadata["environment"] == "sevenn"


def test_mace_is_served_beside_it(client):
    systems = [ours(atoms) for atoms in crystals()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        here = registry.load(f"mace:{weights('mace_mp_small.model')}", dtype="float32")
    expected = predict(here.potential, systems, frozenset(FORCES))
    for one, other in zip(client.predict(systems, FORCES, "mace"), expected, strict=True):
        assert_close(one, other.energy, other.conservative_forces)


def test_a_hybrid_takes_its_energy_from_one_and_its_direct_forces_from_the_other(client):
    water = ours(periodic()["water"])
    both = client.predict(water, (*FORCES, "direct_forces"), "fast")
    ((energy, forces),) = reference([periodic()["water"]])
    assert_close(both, energy, forces)
    direct = client.predict(water, "direct_forces", "water").direct_forces
    np.testing.assert_allclose(both.direct_forces, direct, atol=1e-4)
    assert np.abs(both.direct_forces - both.conservative_forces).max() > 0.01


def test_a_hybrid_of_two_environments_runs_on_the_server(client):
    water = ours(periodic()["water"])
    begin = Start(water, np.zeros((len(water), 3)), Integrator(time_step_fs=0.5, inner_steps=2))
    *_, last = client.propagate(begin, 8, model="fast")
    assert last.step == 8
    assert np.isfinite(last.conserved_energy)
