"""ANI agrees with torchani's own ASE calculator on published weights."""

import functools
import os
import pathlib
import warnings
import zipfile

import numpy as np
import pytest
import torch

pytest.importorskip("torchani", reason="torchani is not installed: pip install -e '.[ani]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchani.ase import Calculator
    from torchani.neurochem import load_ensemble, load_sae

from ase import Atoms
from ase.build import molecule

from tests.conftest import free_ports
from tests.models.families.agreement import assert_agree
from tests.models.families.payload import Payload
from tests.models.families.systems import displaced, ours, water
from tests.models.families.weights import NEUROCHEM, weights
from twinforce import Client
from twinforce_models import registry
from twinforce_models.contract import check_potential
from twinforce_models.potentials import ani
from twinforce_models.prediction import predict
from twinforce_proto import ModelLoadError, System
from twinforce_service.embedded import run_in_thread

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Return ANI-1ccx as torchani keeps it, converted from the format of its first versions."""
    folder = tmp_path_factory.mktemp("ani")
    with zipfile.ZipFile(weights(NEUROCHEM)) as archive:
        archive.extractall(folder)
    network, (first,) = ani.assembled("1ccx"), folder.rglob("ani-1ccx_8x/train0")
    parts = load_ensemble("HCNO", first.with_name("train"), 8), load_sae(first / "sae_linfit.dat")
    network.potentials["nnp"].neural_networks.load_state_dict(parts[0].state_dict())
    network.energy_shifter.load_state_dict(parts[1].state_dict())
    torch.save(network.state_dict(), folder / "ani1ccx_state_dict.pt")
    return folder / "ani1ccx_state_dict.pt"


@functools.cache
def load(file, dtype="float64"):
    return registry.load(f"ani:{file}", dtype=dtype)


class EveryProperty(Calculator):
    """The calculator of torchani, which computes only the energy unless it is asked for more."""

    def calculate(self, atoms):
        stress = ["stress"] if atoms.pbc.all() else []
        super().calculate(atoms, ["energy", "forces", *stress])


@functools.cache
def calculator(file, dtype="float64"):
    network = ani.assembled("1ccx")
    network.load_state_dict(torch.load(file, weights_only=True))
    return EveryProperty(network.to(getattr(torch, dtype)))


def molecules():
    return {name: displaced(molecule(name)) for name in ("CH3CH2OH", "NH3", "HCN", "C6H6")}


def boxes():
    ammonia = molecule("NH3")
    ammonia.cell, ammonia.pbc = [4.0, 4.5, 5.0], True
    return {"water": water(), "ammonia": displaced(ammonia.repeat((2, 1, 1)))}


@pytest.mark.parametrize("systems", [molecules, boxes])
def test_a_batch_agrees_with_the_calculator(file, systems):
    assert_agree(load(file).potential, calculator(file), systems(), "conservative")


def test_a_sheet_and_an_atom_share_a_batch(file):
    sheet = boxes()["water"]
    sheet.pbc = [True, True, False]
    systems = {"sheet": sheet, "atom": Atoms("O"), **molecules()}
    assert_agree(load(file).potential, calculator(file), systems, "conservative")


def test_float32_keeps_the_digits_of_energies_of_free_atoms(file):
    """The package adds hundreds of eV for each atom in float32, and we in float64."""
    systems = [ours(atoms) for atoms in molecules().values()]
    outputs = {"energy", "conservative_forces"}
    exact, rounded = (
        predict(load(file, dtype).potential, systems, outputs) for dtype in ("float64", "float32")
    )
    for one, other in zip(exact, rounded, strict=True):
        assert one.energy == pytest.approx(other.energy, abs=1e-4)
        assert one.energy < -1000
        np.testing.assert_allclose(one.conservative_forces, other.conservative_forces, atol=1e-3)


def test_atoms_without_neighbors_share_a_batch_and_are_alone(file):
    potential, outputs = load(file).potential, {"atom_energies", "conservative_forces"}
    atom = System([8], [[0, 0, 0]])
    (alone,) = predict(potential, [atom], outputs)
    beside, _ = predict(potential, [atom, ours(molecules()["NH3"])], outputs)
    assert alone.atom_energies == pytest.approx(beside.atom_energies, abs=1e-12)
    np.testing.assert_array_equal(alone.conservative_forces, np.zeros((1, 3)))


def test_the_contract_is_kept_but_for_declared_exceptions(file):
    report = check_potential(load(file).potential)
    report.raise_if_broken()
    exempt = {check.name for check in report.checks if check.is_exempt}
    assert exempt == {"energy and forces continuous at the cutoff"}


def test_names_and_files(file, tmp_path, monkeypatch):
    info = load(file).info
    assert (info.elements, info.metadata["arch"]) == ((1, 6, 7, 8), "1ccx")
    other = tmp_path / "mine.pt"
    other.symlink_to(file)
    with pytest.raises(ModelLoadError, match="arch: expected one of 1x, 1ccx, 2x, got none"):
        registry.load(f"ani:{other}")
    with pytest.raises(ModelLoadError, match=r"(?s)not weights of ANI-2x: .*size mismatch"):
        registry.load(f"ani:{other}#arch=2x")
    assert registry.load(f"ani:{other}#arch=1ccx").info.sha256 == info.sha256
    monkeypatch.setenv("TORCHANI_DATA_DIR", str(file.parent))
    (file.parent / "StateDicts").mkdir()
    (file.parent / "StateDicts" / file.name).symlink_to(file)
    assert registry.load("ani:1ccx").info.name == "ani-1ccx"
    monkeypatch.setattr(ani, "hf_hub_download", lambda *_, **__: 1 / 0)
    with pytest.raises(ModelLoadError, match=r"'ani:2x' is not in the cache .*ani2x_state_dict.pt"):
        registry.load("ani:2x")
    with pytest.raises(ModelLoadError, match=r"there are 1x, 1ccx, 2x"):
        registry.load("ani:3x")


def test_a_malicious_file_is_refused_without_running_it(tmp_path):
    owned, path = tmp_path / "owned", tmp_path / "bad.pt"
    torch.save({"weights": Payload(pathlib.Path.touch, owned)}, path)
    with pytest.raises(ModelLoadError, match=r"contains .*pathlib.*--trust-pickles"):
        registry.load(f"ani:{path}#arch=2x")
    assert not owned.exists()


def test_loading_leaves_global_state_alone(file):
    before = dict(os.environ), torch.get_default_dtype()
    registry.load(f"ani:{file}")
    assert (dict(os.environ), torch.get_default_dtype()) == before


def test_a_service_answers(file):
    settings = free_ports(model={"ani": f"ani:{file}"}, dtype="float64")
    system = ours(molecules()["NH3"])
    (expected,) = predict(load(file).potential, [system], {"energy"})
    with run_in_thread(settings) as server, Client(server.grpc_url) as client:
        answer = client.predict(system, model="ani", outputs=("energy",))
    assert answer.energy == pytest.approx(expected.energy, abs=1e-8)
