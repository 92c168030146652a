"""ORB models agree with orb-models' own ASE calculator on published weights."""

import functools
import os
import pathlib
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch

pytest.importorskip("orb_models", reason="orb-models is not installed: pip install -e '.[orb]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from orb_models.forcefield import pretrained
    from orb_models.forcefield.calculator import ORBCalculator
    from orb_models.forcefield.conservative_regressor import ConservativeForcefieldRegressor

from tests.conftest import free_ports
from tests.models.families.agreement import assert_agree
from tests.models.families.payload import Payload
from tests.models.families.systems import open_systems, ours, periodic, slab
from tests.models.families.weights import WEIGHTS, weights
from twinforce import Client
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.contract import check_potential
from twinforce_models.potentials.orb import loader
from twinforce_models.potentials.orb.potential import nearest
from twinforce_models.prediction import predict
from twinforce_proto import (
    OUTPUTS,
    ModelLoadError,
    System,
    UnsupportedElementError,
    UnsupportedOutputError,
)
from twinforce_service.embedded import run_in_thread

FILE = "orb-d3-xs-v2-20241011.ckpt"
DTYPES = ["float32", "float64"]
DIRECT = {"direct_forces", "direct_stress"}
EVERYTHING = DIRECT | {"energy", "conservative_forces", "conservative_stress"}

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def file():
    return weights(FILE)


@functools.cache
def load(file, dtype="float32", options="#untrained=conservative"):
    return registry.load(f"orb:{file}{options}", dtype=dtype)


@contextmanager
def default_dtype(dtype):
    """The package computes in the default dtype of the process."""
    torch.set_default_dtype(getattr(torch, dtype))
    yield
    torch.set_default_dtype(torch.float32)


@functools.cache
def calculator(file, dtype, kind):
    """Return the package's calculator of direct or conservative forces."""
    precision = "float64" if dtype == "float64" else "float32-highest"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = pretrained.orb_d3_xs_v2(
            weights_path=str(file), device="cpu", precision=precision, compile=False
        )
    if kind == "conservative":
        heads = {name: head for name, head in model.heads.items() if name != "stress"}
        model = ConservativeForcefieldRegressor(
            heads=heads,
            model=model.model,
            ensure_grad_loss_weights=False,
            system_config=model.system_config,
        )
        model = model.to(getattr(torch, dtype)).eval().requires_grad_(False)
    return ORBCalculator(model, device="cpu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["direct", "conservative"])
@pytest.mark.parametrize("systems", [periodic, open_systems])
def test_a_batch_agrees_with_the_calculator(file, dtype, kind, systems):
    potential = load(file, dtype).potential
    with default_dtype(dtype):
        assert_agree(potential, calculator(file, dtype, kind), systems(), kind)


@pytest.mark.parametrize("kind", ["direct", "conservative"])
def test_both_kinds_of_forces_come_from_one_pass(file, kind):
    potential = load(file, "float64").potential
    with default_dtype("float64"):
        calc = calculator(file, "float64", kind)
        assert_agree(potential, calc, periodic(), kind, outputs=EVERYTHING)


@functools.cache
def random_weights(arch, folder):
    """Write weights for an architecture that has none in any package; return the file."""
    torch.manual_seed(3)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patched:
        warnings.simplefilter("ignore")
        patched.setattr(pretrained, "load_model", lambda model, *_, **__: model)
        model = pretrained.ORB_PRETRAINED_MODELS[arch](device="cpu", compile=False)
    torch.save(model.state_dict(), folder / f"{arch}.ckpt")
    return folder / f"{arch}.ckpt"


@pytest.mark.parametrize(
    ("arch", "kind"),
    [
        ("orb-v3-direct-20-omat", "direct"),
        ("orb-v3-conservative-inf-omat", "conservative"),
        ("orb-v3-direct-omol", "direct"),
    ],
)
def test_the_third_version_agrees_with_the_calculator(arch, kind, tmp_path):
    path = random_weights(arch, tmp_path)
    model = registry.load(f"orb:{path}#arch={arch}", dtype="float64")
    assert model.info.metadata["trained_for"] == kind
    assert model.info.uses_charge == model.info.uses_spin == ("omol" in arch)
    is_bulk = "omol" not in arch
    systems = {name: atoms for name, atoms in periodic().items() if name in ("Cu", "water")}
    systems = systems if is_bulk else open_systems()
    for atoms in systems.values():
        atoms.positions[:2] = atoms.positions[0] + [[0, 0, 0], [0.3, 0.4, 0.1]][: len(atoms)]
        atoms.info.update(charge=0, spin=1)
    theirs = published(arch, path)
    with default_dtype("float64"):
        assert_agree(model.potential, theirs, systems, kind)


def published(arch, path):
    """Return the package's calculator in float64, made as in a process that does nothing else."""
    torch.set_default_dtype(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = pretrained.ORB_PRETRAINED_MODELS[arch](
            weights_path=str(path), device="cpu", precision="float64", compile=False
        )
    torch.set_default_dtype(torch.float32)
    return ORBCalculator(model, device="cpu")


def test_charge_and_spin_reach_a_network_that_takes_them(tmp_path):
    path = random_weights("orb-v3-direct-omol", tmp_path)
    model = registry.load(f"orb:{path}#arch=orb-v3-direct-omol", dtype="float64")
    atoms = open_systems()["ethanol"]
    theirs = published("orb-v3-direct-omol", path)
    with default_dtype("float64"):
        for charge, spin in ((0, 1), (-1, 2)):
            system = System(atoms.numbers, atoms.positions, None, False, charge, spin)
            atoms.info.update(charge=charge, spin=spin)
            theirs.calculate(atoms)
            (mine,) = predict(model.potential, [system], {"energy", "direct_forces"})
            assert mine.energy == pytest.approx(theirs.results["energy"], abs=1e-8)
            np.testing.assert_allclose(mine.direct_forces, theirs.results["forces"], atol=1e-8)


def test_a_slab_is_as_the_same_slab_with_a_vacuum(file):
    potential = load(file, "float64").potential
    atoms, padded = slab()
    outputs = {"energy", "conservative_forces", "direct_forces"}
    batch = [ours(atoms), ours(padded), System([8], [[0, 0, 0]])]
    mine, same, _ = predict(potential, batch, outputs)
    for name in outputs:
        np.testing.assert_allclose(getattr(mine, name), getattr(same, name), atol=1e-10)
    with default_dtype("float64"):
        assert_agree(potential, calculator(file, "float64", "direct"), {"Cu": padded}, "direct")


def test_the_contract_is_kept_but_for_declared_exceptions(file):
    report = check_potential(load(file, "float64").potential)
    report.raise_if_broken()
    exempt = {check.name for check in report.checks if check.is_exempt}
    assert exempt == {
        "energy and forces continuous at the cutoff",
        "conservative stress = dE/dstrain / V",
    }
    assert "20 nearest neighbors" in str(report)
    declared = load(file).info.metadata["exemptions"]
    assert {each["check"] for each in declared} >= exempt


def test_atoms_have_no_energies(file):
    potential = load(file).potential
    assert load(file).info.outputs == tuple(name for name in OUTPUTS if name in EVERYTHING)
    with pytest.raises(UnsupportedOutputError, match="has no atom_energies"):
        predict(potential, [System([8], [[0, 0, 0]])], {"atom_energies"})


def test_untrained_forces_must_be_asked_for(file):
    info = load(file, options="").info
    assert set(info.outputs) == DIRECT | {"energy"}
    assert info.metadata["trained_for"] == "direct"
    message = "untrained: expected conservative for orb-d3-xs-v2.*trained for direct.*got 'direct'"
    with pytest.raises(ModelLoadError, match=message):
        load(file, options="#untrained=direct")


def test_elements_that_the_data_lack_are_refused(file):
    for number in (86, 118):
        with pytest.raises(UnsupportedElementError, match=f"got {number}"):
            predict(load(file).potential, [System([number], [[0, 0, 0]])], {"energy"})


def test_an_architecture_is_told_by_the_name_of_the_file_or_asked_for(file, tmp_path):
    (tmp_path / "mine.ckpt").symlink_to(file)
    mine = tmp_path / "mine.ckpt"
    with pytest.raises(ModelLoadError, match=r"add #arch= with one of .*orb-d3-xs-v2"):
        registry.load(f"orb:{mine}")
    info = registry.load(f"orb:{mine}#arch=orb-d3-xs-v2&sha256={WEIGHTS[FILE]}").info
    assert (info.metadata["arch"], info.sha256) == ("orb-d3-xs-v2", WEIGHTS[FILE])
    with pytest.raises(ModelLoadError, match=r"not weights of orb-d3-v2: Missing key"):
        registry.load(f"orb:{mine}#arch=orb-d3-v2")
    with pytest.raises(ModelLoadError, match=r"arch: expected one of .*got 'nonsense'"):
        registry.load(f"orb:{mine}#arch=nonsense")
    torch.save([1], tmp_path / "list.ckpt")
    with pytest.raises(ModelLoadError, match="expected the weights of an ORB model"):
        registry.load(f"orb:{tmp_path / 'list.ckpt'}#arch=orb-v2")


def test_a_malicious_file_is_refused_without_running_it(tmp_path):
    owned, path = tmp_path / "owned", tmp_path / "bad.ckpt"
    torch.save({"model": Payload(pathlib.Path.touch, owned)}, path)
    with pytest.raises(ModelLoadError, match=r"contains .*pathlib.*--trust-pickles"):
        registry.load(f"orb:{path}#arch=orb-v2")
    assert not owned.exists()


def test_a_published_name_is_looked_up_in_the_cache_of_the_package(file, tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "find_latest_cached", lambda _: str(file))
    info = registry.load("orb:orb-d3-xs-v2").info
    assert (info.name, info.version) == ("orb-d3-xs-v2", WEIGHTS[FILE][:12])
    monkeypatch.setattr(loader, "find_latest_cached", lambda _: None)
    monkeypatch.setattr(loader, "cached_path", lambda _: 1 / 0)
    message = r"could not be downloaded.*https://\S+/orb-v2-\d+.ckpt.*NAME=orb:orb-v2-\d+.ckpt"
    with pytest.raises(ModelLoadError, match=message):
        registry.load("orb:orb-v2")
    with pytest.raises(ModelLoadError, match=r"no such file, and orb-models publishes no such"):
        registry.load(f"orb:{tmp_path / 'gone.ckpt'}")


def test_loading_and_evaluating_leave_global_state_alone(file):
    def state():
        return dict(os.environ), torch.get_default_dtype(), torch.get_float32_matmul_precision()

    before = state()
    predict(registry.load(f"orb:{file}", dtype="float64").potential, [ours(slab()[0])], {"energy"})
    assert state() == before


def test_the_nearest_neighbors_of_each_atom_are_kept():
    """An atom has six images in a cubic cell, and twelve more along the diagonals of its faces."""
    atoms = System([8], [[0, 0, 0]], 2.0 * np.eye(3), True)
    batch = Batch.from_systems([atoms, System([8], [[0, 0, 0]]), atoms], 2.9)
    vectors = batch.displacements()
    kept = nearest(batch, vectors, 7)
    assert batch.pairs[0][kept].tolist() == [0] * 7 + [2] * 7
    assert vectors[kept].norm(dim=1).tolist() == pytest.approx(([2.0] * 6 + [8**0.5]) * 2)
    assert len(nearest(batch, vectors, 99)) == batch.n_pairs == 36
    alone = Batch.from_systems([System([8], [[0, 0, 0]])], 2.9)
    assert nearest(alone, alone.displacements(), 7).tolist() == []


def test_of_equally_near_images_the_same_one_is_kept():
    atoms = System([8], [[0.1, 0.2, 0.3]], np.diag([2.0, 2.1, 2.2]), True)
    kept = []
    for step in (0.0, 0.3, 1.7):
        batch = Batch.from_systems([atoms.moved(atoms.positions + step)], 2.15)
        kept.append(batch.shifts[nearest(batch, batch.displacements(), 3)].tolist())
    assert kept[0] == kept[1] == kept[2] == [[-1, 0, 0], [1, 0, 0], [0, -1, 0]]


def test_a_service_answers_with_both_kinds_of_forces(file):
    expected = predict(load(file).potential, [ours(slab()[0])], {"energy", "direct_forces"})[0]
    settings = free_ports(model={"orb": f"orb:{file}#untrained=conservative"})
    with run_in_thread(settings) as server:
        for url in (server.grpc_url, server.rest_url):
            with Client(url) as client:
                system = ours(slab()[0])
                answer = client.predict(
                    system, model="orb", outputs=("energy", "direct_forces", "conservative_forces")
                )
                assert answer.energy == pytest.approx(expected.energy, abs=1e-5)
                np.testing.assert_allclose(answer.direct_forces, expected.direct_forces, atol=1e-5)
