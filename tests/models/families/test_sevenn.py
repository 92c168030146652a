"""SevenNet agrees with sevenn's own ASE calculator on the weights that come with the package."""

import functools
import os
import pathlib
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("sevenn", reason="sevenn is not installed: pip install -e '.[sevenn]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sevenn.calculator import SevenNetCalculator

from tests.conftest import free_ports
from tests.models.families.agreement import assert_agree
from tests.models.families.payload import Payload
from tests.models.families.systems import open_systems, ours, periodic, slab
from tests.models.families.weights import WEIGHTS, weights
from twinforce import Client
from twinforce_models import registry
from twinforce_models.contract import check_potential
from twinforce_models.potentials import sevennet
from twinforce_models.prediction import predict
from twinforce_proto import ModelLoadError, System
from twinforce_service.embedded import run_in_thread

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]


@functools.cache
def load(name="7net-0", dtype=None):
    return registry.load(f"sevenn:{name}", dtype=dtype)


@functools.cache
def calculator(name="7net-0", modal=None):
    return SevenNetCalculator(name, device="cpu", modal=modal)


@pytest.mark.parametrize("systems", [periodic, open_systems])
def test_a_batch_agrees_with_the_calculator(systems):
    assert_agree(load().potential, calculator(), systems(), "conservative")


def test_a_slab_and_an_atom_share_a_batch():
    systems = {"Cu": slab()[0], **open_systems()}
    assert_agree(load().potential, calculator(), systems, "conservative")


def test_float64_is_what_float32_is_rounded_from():
    exact, rounded = load(dtype="float64").potential, load().potential
    systems = [ours(atoms) for atoms in periodic().values()]
    outputs = {"energy", "conservative_forces"}
    for one, other in zip(
        predict(exact, systems, outputs), predict(rounded, systems, outputs), strict=True
    ):
        assert one.energy == pytest.approx(other.energy, abs=1e-4)
        np.testing.assert_allclose(one.conservative_forces, other.conservative_forces, atol=1e-3)
        assert not np.array_equal(one.conservative_forces, other.conservative_forces)


@pytest.mark.parametrize("modal", ["PBE", "R2SCAN"])
def test_a_modal_is_a_variant(modal):
    potential = load(f"7net-mf-0#variant={modal}").potential
    systems = {name: periodic()[name] for name in ("Cu", "NaCl")}
    assert_agree(potential, calculator("7net-mf-0", modal), systems, "conservative")


def test_variants_are_checked():
    with pytest.raises(ModelLoadError, match=r"variant: expected one of .*PBE.*got none"):
        load("7net-mf-0")
    with pytest.raises(ModelLoadError, match=r"variant: expected none, .*got PBE"):
        load("7net-0#variant=PBE")


def test_the_contract_is_kept_but_for_declared_exceptions():
    report = check_potential(load(dtype="float64").potential)
    report.raise_if_broken()
    exempt = {check.name for check in report.checks if check.is_exempt}
    assert exempt <= {"energy and forces continuous at the cutoff"}


def test_a_published_name_is_looked_up_by_the_package(monkeypatch):
    assert (load().info.name, len(load().info.elements)) == ("7net-0", 89)
    monkeypatch.setattr(sevennet, "pretrained_name_to_path", lambda _: 1 / 0)
    message = r"could not be downloaded.*https://\S+_omni_i8.pth.*sevenn:checkpoint_sevennet_omni"
    with pytest.raises(ModelLoadError, match=message):
        registry.load("sevenn:7net-omni-i8")
    with pytest.raises(ModelLoadError, match=r"sevenn publishes no such model.*7net-0"):
        registry.load("sevenn:8net")


def test_a_file_is_read_without_running_code_in_it():
    path = weights("sevennet_0.pth")
    model = registry.load(f"sevenn:{path}")
    assert (model.info.name, model.info.sha256) == ("sevennet_0", WEIGHTS["sevennet_0.pth"])
    systems = {"NaCl": periodic()["NaCl"]}
    assert_agree(model.potential, calculator(str(path)), systems, "conservative")


def test_what_is_no_checkpoint_is_refused(tmp_path):
    torch.save({"weights": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(ModelLoadError, match="expected a checkpoint of SevenNet"):
        registry.load(f"sevenn:{tmp_path / 'other.pth'}")


def test_a_malicious_file_is_refused_without_running_it(tmp_path):
    owned, path = tmp_path / "owned", tmp_path / "bad.pth"
    torch.save({"config": Payload(pathlib.Path.touch, owned)}, path)
    with pytest.raises(ModelLoadError, match=r"contains .*pathlib.*--trust-pickles"):
        registry.load(f"sevenn:{path}")
    assert not owned.exists()


def test_loading_leaves_global_state_alone():
    before = dict(os.environ), torch.get_default_dtype()
    registry.load("sevenn:7net-0")
    assert (dict(os.environ), torch.get_default_dtype()) == before


def test_a_service_answers():
    settings = free_ports(model={"seven": "sevenn:7net-0"})
    atom = System([8], [[0, 0, 0]])
    expected, _ = predict(load().potential, [ours(slab()[0]), atom], {"energy"})
    with run_in_thread(settings) as server, Client(server.grpc_url) as client:
        answer = client.predict(ours(slab()[0]), model="seven", outputs=("energy",))
    assert answer.energy == pytest.approx(expected.energy, abs=1e-4)
