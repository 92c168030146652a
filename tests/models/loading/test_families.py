"""Specs lead to the loader of their family, or to an error that says what to do."""

import hashlib
import json
import sys

import numpy as np
import pytest
import torch

from tests.conftest import free_ports
from tests.docs.pages import ROOT, blocks_of
from tests.models.loading.packages import install
from tests.systems import molecule
from twinforce import Client
from twinforce_models import registry
from twinforce_models.contract import check_potential
from twinforce_models.loading.catalog import families
from twinforce_models.loading.source import download
from twinforce_models.loading.spec import ModelSpec
from twinforce_models.potential import Heads
from twinforce_models.prediction import predict
from twinforce_proto import ModelLoadError, PredictionError, UnsupportedOutputError
from twinforce_service.embedded import run_in_thread

CODE = '''
import torch
from twinforce_models.potential import Heads


class Counting:
    """The energy is the number of atoms of a system, which has no energies of atoms."""

    cutoff, elements, device = 6.0, tuple(range(1, 119)), torch.device("cpu")
    outputs = frozenset({"energy", "conservative_forces"})
    uses_charge = uses_spin = False

    def __init__(self, dtype, factor=1.0):
        self.dtype, self.factor = dtype, factor

    def forward_heads(self, batch, *, direct):
        sizes = torch.tensor(batch.n_atoms_per_system, dtype=self.dtype)
        lengths = batch.sum_over_pairs(batch.displacements().square().sum(dim=1))
        return Heads(energy=self.factor * sizes + 0.1 * batch.sum_over_atoms(lengths))


def load(source, *, factor="1", variant=None):
    file = source.read(published if source.place.startswith("public") else None)
    facts = {"metadata": {"size": len(file.content)}}
    return Counting(source.dtype or torch.float64, float(factor)), facts


def published(name):
    from pathlib import Path
    return Path(__file__).with_name(name + ".bin")


def load_without_file(source):
    return Counting(torch.float64), {"name": "counting", "sha256": "0" * 64, "version": "2"}


def load_badly(source):
    raise KeyError("layers.0.weight")


def load_with_missing_package(source):
    import no_such_package
'''

POINTS = """[twinforce.families]
counting = counting:load
nofile = counting:load_without_file
bad = counting:load_badly
halfway = counting:load_with_missing_package
gone = no_such_module:load
"""


@pytest.fixture(autouse=True)
def site(monkeypatch, tmp_path):
    return install(monkeypatch, tmp_path, "counting", CODE, POINTS)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"12345")
    return path


def test_a_third_party_adds_a_family(weights):
    model = registry.load(f"counting:{weights}#factor=2&variant=pbe", name="mine")
    sha256 = hashlib.sha256(b"12345").hexdigest()
    assert (model.info.name, model.info.architecture) == ("mine", "counting")
    assert (model.info.sha256, model.info.version) == (sha256, sha256[:12])
    assert model.info.metadata == {
        "size": 5,
        "file": "weights.bin",
        "factor": "2",
        "variant": "pbe",
    }
    assert registry.load(f"counting:{weights}").info.name == "weights"


def test_a_model_may_tell_an_energy_per_system_only(weights):
    model = registry.load(f"counting:{weights}#factor=2")
    assert model.info.outputs == ("energy", "conservative_forces")
    both = [molecule(), molecule()]
    predictions = predict(model.potential, both, {"energy", "conservative_forces"})
    (alone,) = predict(model.potential, both[:1], {"energy"})
    for prediction in predictions:
        assert prediction.energy == alone.energy > 2 * len(both[0])
        assert np.abs(prediction.conservative_forces).max() > 0.01
    with pytest.raises(UnsupportedOutputError, match="has no atom_energies"):
        predict(model.potential, both, {"atom_energies"})


def test_a_potential_without_any_energy_is_an_error_of_its_own(weights, monkeypatch):
    potential = registry.load(f"counting:{weights}").potential
    monkeypatch.setattr(potential, "forward_heads", lambda *_, **__: Heads(), raising=False)
    with pytest.raises(PredictionError, match="neither energies of atoms nor of systems"):
        predict(potential, [molecule()], {"energy"})


def test_a_published_name_leads_to_a_file(site):
    (site / "public.bin").write_bytes(b"123")
    info = registry.load("counting:public").info
    assert info.sha256 == hashlib.sha256(b"123").hexdigest()
    with pytest.raises(ModelLoadError, match=r"SHA-256 is a665\w+, expected 00"):
        registry.load("counting:public#sha256=00")


def test_a_family_needs_no_file():
    info = registry.load("nofile:anything").info
    assert (info.name, info.version, info.sha256) == ("counting", "2", "0" * 64)


def test_a_known_hash_is_compared(weights):
    sha256 = hashlib.sha256(b"12345").hexdigest()
    assert registry.load(f"counting:{weights}#sha256={sha256}").info.sha256 == sha256
    assert registry.load(f"counting:{weights}#sha256={sha256.upper()}").info.sha256 == sha256
    with pytest.raises(ModelLoadError, match=rf"its SHA-256 is {sha256}, expected 00"):
        registry.load(f"counting:{weights}#sha256=00")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nonsense:x", r"expected a family before the colon, one of .*counting.*orb.*'nonsense'"),
        ("counting:gone.bin", r"gone.bin: there is no such file"),
        ("counting:{}#size=4", r"expected factor or sha256 or variant after #.*counting, got size"),
        ("counting:{}#factor", r"expected KEY=VALUE once per key, got factor"),
        ("counting:{}#factor=", r"expected KEY=VALUE once per key, got factor="),
        ("counting:{}#factor=1&factor=2", r"expected KEY=VALUE once per key, got factor=2"),
        ("counting:{}#factor=x", r"ValueError: could not convert string to float"),
        ("nofile:x#sha256=00", r"sha256: this model is not a file"),
        ("bad:x", r"model 'bad:x': KeyError: 'layers.0.weight'"),
        ("gone:x", r"cannot import the loader of gone, no_such_module:load: No module named"),
        ("halfway:x", r"cannot import the loader of halfway.*No module named 'no_such_package'"),
        ("toy:nonsense", r"neither a directory nor a model of this package: .*toy:harmonic"),
        ("orb-v2", r"neither a directory nor.* FAMILY:FILE or FAMILY:NAME, with.*counting.*orb"),
        ("{}", r"name of this file tells no family; expected FAMILY:.*weights.bin.*counting"),
        ("water#variant=pbe", r"no option but sha256 after #, for a model of Twin.*got variant"),
        ("toy:harmonic#stiffness=1", r"expected nothing after a toy, got #"),
    ],
)
def test_errors_say_what_was_expected(weights, spec, message):
    with pytest.raises(ModelLoadError, match=message):
        registry.load(spec.format(weights))


@pytest.mark.parametrize(
    ("family", "rest"),
    [
        ("orb", r" \("),
        ("mace", r" \("),
        ("mattersim", r" && \S+ -m pip install --no-deps 'mattersim>=1"),
    ],
)
def test_a_missing_package_names_its_extra(monkeypatch, family, rest):
    for name in list(sys.modules):
        if name.startswith(f"twinforce_models.potentials.{family}"):
            monkeypatch.delitem(sys.modules, name)
    for package in ("orb_models.forcefield.base", "cached_path", "mace", "mattersim"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ModelLoadError, match=rf"-m pip install 'twinforce\[{family}\]'{rest}.*env create {family}"
    ):
        registry.load(f"{family}:weights")


def test_packages_that_do_not_fit_together_are_an_error_of_the_family(monkeypatch, tmp_path):
    code = "raise RuntimeError('operator vision::nms does not exist')"
    install(monkeypatch, tmp_path, "misfit", code, "[twinforce.families]\nmisfit = misfit:load\n")
    with pytest.raises(ModelLoadError, match=r"the loader of misfit.*RuntimeError: operator vis"):
        registry.load("misfit:weights")


def test_a_download_without_a_network_says_what_to_put_where():
    def fetch():
        raise ConnectionError

    with pytest.raises(ModelLoadError) as error:
        download("orb:orb-v2", "https://example.org/a/orb-v2.ckpt", "/cache/orb", fetch)
    for part in ("'orb:orb-v2'", "/cache/orb", "https://example.org/a/orb-v2.ckpt",
                 "--model NAME=orb:orb-v2.ckpt", "ConnectionError"):  # fmt: skip
        assert part in str(error.value)


def test_suffixes_stand_for_families():
    suffixes = {family.suffix: family.name for family in families().values() if family.suffix}
    assert suffixes == {".ckpt": "pet", ".pt": "metatomic"}
    assert ModelSpec.parse("a/b.ckpt").family is None
    assert ModelSpec.parse("orb:a/b.ckpt#arch=orb-v2").options == {"arch": "orb-v2"}


def test_each_part_of_a_composed_model_may_be_of_a_family(weights):
    spec = f"conservative:counting:{weights}#factor=3+direct:toy:lennard-jones"
    model = registry.load(spec)
    assert model.info.outputs == (
        "energy",
        "conservative_forces",
        "direct_forces",
        "direct_stress",
    )
    (prediction,) = predict(model.potential, [molecule()], {"energy", "direct_forces"})
    assert prediction.energy > 3 * len(molecule())


def test_the_dtype_reaches_the_family(weights):
    assert registry.load(f"counting:{weights}", dtype="float32").potential.dtype == torch.float32


@pytest.fixture
def springs(monkeypatch, tmp_path):
    """Install the example of the documentation, and return a file of it."""
    blocks = blocks_of(ROOT / "docs" / "models.md")
    (code,) = (each.code for each in blocks if each.language == "python" and "Springs" in each.code)
    (points,) = (each.code for each in blocks if each.language == "toml")
    points = points.replace('project.entry-points."twinforce.families"', "twinforce.families")
    (tmp_path / "documented").mkdir()
    install(monkeypatch, tmp_path / "documented", "springs", code, points.replace('"', ""))
    path = tmp_path / "argon.json"
    settings = {"name": "argon", "version": "3", "cutoff": 4.5, "elements": [18]}
    path.write_text(json.dumps(settings))
    return path


def test_the_example_of_the_documentation_keeps_the_contract(springs):
    model = registry.load(f"springs:{springs}#stiffness=0.5")
    assert (model.info.name, model.info.version, model.info.architecture) == (
        "argon",
        "3",
        "springs",
    )
    check_potential(model.potential).raise_if_broken()


def test_the_example_of_the_documentation_is_served(springs):
    settings = free_ports(model={"mine": f"springs:{springs}#stiffness=0.5"}, engine="thread")
    one, other = (registry.load(f"springs:{springs}#stiffness={k}").potential for k in ("0.5", "1"))
    system = molecule()
    with run_in_thread(settings) as server, Client(server.grpc_url) as client:
        answer = client.predict(system, model="mine", outputs=("energy",))
    ((mine,), (double,)) = (predict(each, [system], {"energy"}) for each in (one, other))
    assert answer.energy == pytest.approx(mine.energy)
    assert double.energy == pytest.approx(2 * mine.energy)
    assert mine.energy < 0
