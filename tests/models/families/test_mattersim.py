"""MatterSim agrees with mattersim's own ASE calculator on published weights."""

import functools
import os
import pathlib
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("mattersim", reason="mattersim is not installed: see docs/models.md")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mattersim.forcefield import MatterSimCalculator

from tests.conftest import free_ports
from tests.models.families.agreement import assert_agree
from tests.models.families.payload import Payload
from tests.models.families.systems import open_systems, ours, periodic, slab
from tests.models.families.weights import WEIGHTS, weights
from twinforce import Client
from twinforce_models import registry
from twinforce_models.contract import check_potential
from twinforce_models.loading.source import Trust
from twinforce_models.potentials import mattersim
from twinforce_models.prediction import predict
from twinforce_proto import ModelLoadError, System, UnsupportedElementError
from twinforce_service.embedded import run_in_thread

FILE = "mattersim-v1.0.0-1M.pth"

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def file():
    return weights(FILE)


@functools.cache
def load(file, dtype=None):
    return registry.load(f"mattersim:{file}", dtype=dtype)


@functools.cache
def calculator(file):
    return MatterSimCalculator.from_checkpoint(str(file), device="cpu", load_training_state=False)


def test_a_batch_agrees_with_the_calculator(file):
    assert_agree(load(file).potential, calculator(file), periodic(), "conservative")


def test_the_larger_model_agrees_with_the_calculator():
    larger = weights("mattersim-v1.0.0-5M.pth")
    systems = {name: periodic()[name] for name in ("Cu", "NaCl")}
    assert_agree(load(larger).potential, calculator(larger), systems, "conservative")


def test_a_molecule_agrees_with_the_calculator(file):
    """The package puts a molecule into a large periodic cell, and moves it there."""
    systems = {"ethanol": open_systems()["ethanol"]}
    assert_agree(load(file).potential, calculator(file), systems, "conservative")


def test_a_slab_is_as_the_same_slab_with_a_vacuum(file):
    potential = load(file, "float64").potential
    atoms, padded = slab()
    batch = [ours(atoms), ours(padded), System([8], [[0, 0, 0]])]
    mine, same, _ = predict(potential, batch, {"energy", "conservative_forces"})
    assert mine.energy == pytest.approx(same.energy, abs=1e-10)
    np.testing.assert_allclose(mine.conservative_forces, same.conservative_forces, atol=1e-10)
    assert_agree(load(file).potential, calculator(file), {"padded": padded}, "conservative")


def test_atoms_without_neighbors_share_a_batch_and_are_alone(file):
    potential = load(file, "float64").potential
    atom, outputs = System([8], [[0, 0, 0]]), {"atom_energies", "conservative_forces"}
    (alone,) = predict(potential, [atom], outputs)
    beside, _ = predict(potential, [atom, ours(slab()[0])], outputs)
    assert alone.atom_energies == pytest.approx(beside.atom_energies, abs=1e-12)
    np.testing.assert_array_equal(alone.conservative_forces, np.zeros((1, 3)))


def test_float64_is_what_float32_is_rounded_from(file):
    systems = [ours(atoms) for atoms in periodic().values()]
    outputs = {"energy", "conservative_forces"}
    exact, rounded = (
        predict(load(file, dtype).potential, systems, outputs) for dtype in ("float64", None)
    )
    for one, other in zip(exact, rounded, strict=True):
        assert one.energy == pytest.approx(other.energy, abs=1e-4)
        np.testing.assert_allclose(one.conservative_forces, other.conservative_forces, atol=1e-3)
        assert not np.array_equal(one.conservative_forces, other.conservative_forces)


def test_the_contract_is_kept_without_exceptions(file):
    report = check_potential(load(file, "float64").potential)
    report.raise_if_broken()
    assert not any(check.is_exempt for check in report.checks)


def test_facts_are_those_of_the_file(file):
    info = load(file).info
    assert (info.name, info.sha256) == ("mattersim-v1.0.0-1M", WEIGHTS[FILE])
    assert (info.cutoff, info.n_parameters, len(info.elements)) == (5.0, 890_034, 89)
    with pytest.raises(UnsupportedElementError, match="got 86"):
        predict(load(file).potential, [System([86], [[0, 0, 0]])], {"energy"})


def test_a_published_name_is_looked_up_where_the_package_keeps_it(file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ModelLoadError, match=r"no published model has this size; there are 1M, 5M"):
        registry.load("mattersim:9M")
    monkeypatch.setattr(mattersim, "download_checkpoint", lambda *_: 1 / 0)
    message = r"could not be downloaded.*https://\S+-1M.pth.*NAME=mattersim:mattersim-v1.0.0-1M.pth"
    with pytest.raises(ModelLoadError, match=message):
        registry.load("mattersim:1M")
    kept = tmp_path / ".local/mattersim/pretrained_models" / FILE
    kept.parent.mkdir(parents=True)
    kept.symlink_to(file)
    assert registry.load("mattersim:1M").info.sha256 == WEIGHTS[FILE]


def test_what_is_no_checkpoint_is_refused(file, tmp_path):
    path = tmp_path / "other.pth"
    saved = torch.load(file, map_location="cpu", weights_only=True)
    fewer = {name: value for name, value in saved["model"].items() if "final" not in name}
    for content, message in (
        ({"weights": torch.ones(2)}, "expected a checkpoint of MatterSim"),
        (saved | {"model_name": "graphormer"}, "expected .*m3gnet, got 'graphormer'"),
        (saved | {"model": fewer}, r"not weights of the network in it: .*Missing key.*final"),
    ):
        torch.save(content, path)
        with pytest.raises(ModelLoadError, match=rf"(?s)other.pth: {message}"):
            registry.load(f"mattersim:{path}")


def test_a_malicious_file_is_refused_without_running_it(file, tmp_path):
    owned, path = tmp_path / "owned", tmp_path / "bad.pth"
    saved = torch.load(file, map_location="cpu", weights_only=True)
    torch.save(saved | {"description": Payload(pathlib.Path.touch, owned)}, path)
    with pytest.raises(ModelLoadError, match=r"contains .*pathlib.*--trust-pickles"):
        registry.load(f"mattersim:{path}")
    assert not owned.exists()
    registry.load(f"mattersim:{path}", trust=Trust(pickles=True))
    assert owned.exists()


def test_loading_leaves_global_state_alone(file):
    def state():
        return dict(os.environ), torch.get_default_dtype(), torch.get_float32_matmul_precision()

    before = state()
    registry.load(f"mattersim:{file}", dtype="float64")
    assert state() == before


def test_a_service_answers(file):
    settings = free_ports(model={"matter": f"mattersim:{file}"})
    (expected,) = predict(load(file).potential, [ours(slab()[0])], {"energy"})
    with run_in_thread(settings) as server, Client(server.grpc_url) as client:
        answer = client.predict(ours(slab()[0]), model="matter", outputs=("energy",))
    assert answer.energy == pytest.approx(expected.energy, abs=1e-4)
