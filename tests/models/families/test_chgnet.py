"""CHGNet agrees with chgnet's own ASE calculator on the weights that come with the package."""

import functools
import os
import pathlib
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("chgnet", reason="chgnet is not installed: pip install -e '.[chgnet]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from chgnet.model.dynamics import CHGNetCalculator

from tests.conftest import free_ports
from tests.models.families.agreement import assert_agree
from tests.models.families.payload import Payload
from tests.models.families.systems import open_systems, ours, periodic, slab
from twinforce import Client
from twinforce_models import registry
from twinforce_models.contract import check_potential
from twinforce_models.potentials.chgnet import find
from twinforce_models.prediction import predict
from twinforce_proto import ModelLoadError, System
from twinforce_service.embedded import run_in_thread

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]


@functools.cache
def load(name="0.3.0", dtype=None):
    return registry.load(f"chgnet:{name}", dtype=dtype)


@functools.cache
def calculator():
    return CHGNetCalculator(use_device="cpu", on_isolated_atoms="ignore")


def test_a_batch_agrees_with_the_calculator():
    assert_agree(load().potential, calculator(), periodic(), "conservative")


def test_open_systems_are_as_in_a_large_periodic_cell():
    """The package itself takes periodic systems only."""
    potential = load(dtype="float64").potential
    for atoms, padded in (slab(), (open_systems()["ethanol"], boxed(open_systems()["ethanol"]))):
        both = predict(potential, [ours(atoms), ours(padded)], {"energy", "conservative_forces"})
        assert both[0].energy == pytest.approx(both[1].energy, abs=1e-10)
        np.testing.assert_allclose(*(each.conservative_forces for each in both), atol=1e-10)
        assert_agree(load().potential, calculator(), {"padded": padded}, "conservative")


def boxed(atoms):
    atoms = atoms.copy()
    atoms.center(vacuum=8.0)
    atoms.pbc = True
    return atoms


def test_atoms_without_neighbors_share_a_batch_and_are_alone():
    potential = load(dtype="float64").potential
    atom, outputs = System([8], [[0, 0, 0]]), {"atom_energies", "conservative_forces"}
    (alone,) = predict(potential, [atom], outputs)
    beside, _ = predict(potential, [atom, ours(slab()[0])], outputs)
    assert alone.atom_energies == pytest.approx(beside.atom_energies, abs=1e-12)
    np.testing.assert_array_equal(alone.conservative_forces, np.zeros((1, 3)))


def test_the_contract_is_kept():
    check_potential(load(dtype="float64").potential).raise_if_broken()


def test_versions_come_with_the_package_and_files_are_read_too():
    assert load().info.name == "chgnet-0.3.0"
    assert len(load().info.elements) == 89
    path = find("0.3.0")
    sha256 = load().info.sha256
    model = registry.load(f"chgnet:{path}#sha256={sha256}")
    assert model.info.name == "chgnet_0.3.0_e29f68s314m37"
    system = ours(periodic()["NaCl"])
    one, other = (predict(m.potential, [system], {"energy"})[0].energy for m in (model, load()))
    assert one == other
    with pytest.raises(ModelLoadError, match=r"comes with no such version.*0.3.0"):
        registry.load("chgnet:9.9")


def test_what_is_no_checkpoint_is_refused(tmp_path):
    torch.save({"weights": torch.ones(2)}, tmp_path / "other.pth.tar")
    with pytest.raises(ModelLoadError, match="expected a checkpoint of CHGNet"):
        registry.load(f"chgnet:{tmp_path / 'other.pth.tar'}")


def test_a_malicious_file_is_refused_without_running_it(tmp_path):
    owned, path = tmp_path / "owned", tmp_path / "bad.pth.tar"
    torch.save({"model": Payload(pathlib.Path.touch, owned)}, path)
    with pytest.raises(ModelLoadError, match=r"contains .*pathlib.*--trust-pickles"):
        registry.load(f"chgnet:{path}")
    assert not owned.exists()


def test_loading_leaves_global_state_alone():
    before = dict(os.environ), torch.get_default_dtype()
    registry.load("chgnet:0.3.0")
    assert (dict(os.environ), torch.get_default_dtype()) == before


def test_a_service_answers():
    settings = free_ports(model={"chgnet": "chgnet:0.3.0"})
    (expected,) = predict(load().potential, [ours(slab()[0])], {"energy"})
    with run_in_thread(settings) as server, Client(server.grpc_url) as client:
        answer = client.predict(ours(slab()[0]), model="chgnet", outputs=("energy",))
    assert answer.energy == pytest.approx(expected.energy, abs=1e-4)
