"""MACE models agree with mace's own ASE calculator on published weights, and are read safely."""

import functools
import os
import pathlib
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("mace", reason="mace-torch is not installed: pip install -e '.[mace]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from e3nn import o3
    from mace import modules
    from mace.calculators import MACECalculator

from tests.conftest import free_ports
from tests.models.families.agreement import assert_agree, reference
from tests.models.families.payload import Payload
from tests.models.families.systems import open_systems, ours, periodic, slab
from tests.models.families.weights import WEIGHTS, weights
from twinforce import Client
from twinforce_models import registry
from twinforce_models.contract import check_potential
from twinforce_models.loading.source import Trust
from twinforce_models.potentials.mace import loader
from twinforce_models.prediction import predict
from twinforce_proto import OUTPUTS, InvalidSystemError, ModelLoadError, System
from twinforce_service.embedded import run_in_thread

FILE = "mace_mp_small.model"
DTYPES = ["float32", "float64"]
CHARGED = {
    "total_charge": {
        **{"type": "categorical", "per": "graph", "num_classes": 5, "offset": 2, "emb_dim": 4}
    },
    "total_spin": {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 4},
}

quiet = pytest.mark.filterwarnings("ignore")
pytestmark = quiet


@pytest.fixture(scope="module")
def file():
    return weights(FILE)


@functools.cache
def load(file, dtype=None, options=""):
    return registry.load(f"mace:{file}{options}", dtype=dtype)


@functools.cache
def calculator(file, dtype="float64", **options):
    """Return the calculator of mace, with the network in a file."""
    network = torch.load(file, weights_only=False)
    made = MACECalculator(models=[network], device="cpu", default_dtype=dtype, **options)
    torch.set_default_dtype(torch.float32)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mace")


@pytest.fixture(scope="module")
def small(folder):
    """Return a file with a small network of random weights and two heads."""
    return save(network(heads=["pbe", "scan"]), folder / "small.model")


def network(heads=("Default",), kind=modules.ScaleShiftMACE, **changes):
    torch.manual_seed(4)
    torch.set_default_dtype(torch.float64)
    energies = np.arange(2.0 * len(heads)).reshape(len(heads), 2)
    settings = {
        "r_max": 4.0,
        "num_bessel": 4,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls": modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        "interaction_cls_first": modules.interaction_classes["RealAgnosticDensityInteractionBlock"],
        "num_interactions": 2,
        "num_elements": 2,
        "hidden_irreps": o3.Irreps("4x0e + 4x1o"),
        "MLP_irreps": o3.Irreps("4x0e"),
        "atomic_energies": energies,
        "avg_num_neighbors": np.float64(8.0),
        "atomic_numbers": [8, 29],
        "correlation": 2,
        "gate": torch.nn.functional.silu,
        "heads": list(heads),
    }
    if kind is modules.ScaleShiftMACE:
        ones = np.arange(1.0, 1 + len(heads))
        settings |= {"atomic_inter_scale": ones, "atomic_inter_shift": 0.1 * ones}
    made = kind(**settings | changes)
    torch.set_default_dtype(torch.float32)
    return made


def save(network, path):
    torch.save(network, path)
    return path


def mixture():
    """Return a system of both elements of the small networks."""
    atoms = periodic()["Cu"]
    atoms.numbers[::3] = 8
    return atoms


@pytest.mark.models
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("systems", [periodic, open_systems])
def test_a_batch_agrees_with_the_calculator(file, dtype, systems):
    assert_agree(load(file, dtype).potential, calculator(file, dtype), systems(), "conservative")


@pytest.mark.models
def test_a_slab_and_an_atom_share_a_batch(file):
    systems = {"Cu": slab()[0], **open_systems()}
    assert_agree(load(file, "float64").potential, calculator(file), systems, "conservative")


@pytest.mark.models
def test_the_contract_is_kept(file):
    report = check_potential(load(file, "float64").potential)
    report.raise_if_broken()
    assert not any(check.is_exempt for check in report.checks)


@pytest.mark.models
def test_energies_of_atoms_agree_with_the_calculator(file):
    atoms = periodic()["NaCl"]
    (prediction,) = predict(load(file, "float64").potential, [ours(atoms)], {"atom_energies"})
    reference(calculator(file), atoms)
    np.testing.assert_allclose(
        prediction.atom_energies,
        calculator(file).results["node_energy"] + isolated(file, atoms),
        atol=1e-10,
    )


def isolated(file, atoms):
    """Return the energies of free atoms, which the calculator subtracts."""
    network = calculator(file).models[0]
    order = network.atomic_numbers.tolist()
    energies = network.atomic_energies_fn.atomic_energies.reshape(-1)
    return np.array([float(energies[order.index(z)]) for z in atoms.numbers])


@pytest.mark.models
def test_the_dtype_of_the_file_is_the_default(file):
    info = load(file).info
    assert (info.dtype, info.name, info.sha256) == ("float64", "mace_mp_small", WEIGHTS[FILE])
    assert (len(info.elements), info.cutoff) == (89, 6.0)
    assert set(info.outputs) == set(OUTPUTS) - {"direct_forces", "direct_stress"}


@pytest.mark.models
def test_a_service_answers(file):
    atoms = slab()[0]
    expected = reference(calculator(file), atoms)
    settings = free_ports(model={"mace": f"mace:{file}"})
    with run_in_thread(settings) as server, Client(server.grpc_url) as client:
        answer = client.predict(
            ours(atoms), model="mace", outputs=("energy", "conservative_forces")
        )
    assert answer.energy == pytest.approx(expected["energy"], abs=1e-8)
    np.testing.assert_allclose(answer.conservative_forces, expected["forces"], atol=1e-8)


@pytest.mark.parametrize("head", ["pbe", "scan"])
def test_a_head_is_a_variant(small, head):
    potential = load(small, options=f"#variant={head}").potential
    systems = {"mixture": mixture()}
    assert_agree(potential, calculator(small, head=head), systems, "conservative")


def test_one_of_several_heads_must_be_named(small, folder):
    with pytest.raises(ModelLoadError, match="expected one of the heads pbe, scan, got none"):
        load(small)
    with pytest.raises(ModelLoadError, match="expected one of the heads pbe, scan, got 'b3lyp'"):
        load(small, options="#variant=b3lyp")
    default = save(network(heads=["pbe", "default"]), folder / "default.model")
    assert load(default).info.metadata["head"] == "default"


NON_LINEAR = modules.interaction_classes["RealAgnosticResidualNonLinearInteractionBlock"]
SETTINGS = {
    "as in MACE-MP-0b and MPA-0": {
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        "radial_MLP": [8, 8],
    },
    "as in MACE-MH": {
        "interaction_cls": NON_LINEAR,
        "interaction_cls_first": NON_LINEAR,
        "edge_irreps": o3.Irreps("4x0e + 4x1o"),
        "use_reduced_cg": True,
        "use_agnostic_product": True,
        "use_last_readout_only": True,
        "radial_MLP": [8, 8, 8],
    },
    "three layers": {"num_interactions": 3, "correlation": 3, "hidden_irreps": o3.Irreps("4x0e")},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_networks_with_other_settings_are_rebuilt(folder, name):
    path = save(network(**SETTINGS[name]), folder / f"{name}.model")
    assert_agree(load(path).potential, calculator(path), {"mixture": mixture()}, "conservative")


def test_charge_and_spin_reach_a_network_that_takes_them(folder):
    path = save(network(embedding_specs=CHARGED), folder / "charged.model")
    model, atoms = load(path), mixture()
    assert model.info.uses_charge
    assert model.info.uses_spin
    found = []
    for charge, spin in ((0, 1), (-2, 3)):
        system = System(atoms.numbers, atoms.positions, atoms.cell, atoms.pbc, charge, spin)
        (prediction,) = predict(model.potential, [system], {"energy"})
        atoms.info.update(charge=charge, spin=spin)
        expected = reference(calculator(path), atoms)
        assert prediction.energy == pytest.approx(expected["energy"], abs=1e-8)
        found.append(prediction.energy)
    assert abs(found[1] - found[0]) > 1e-4
    with pytest.raises(InvalidSystemError, match="charge: expected a whole number"):
        predict(model.potential, [System([8], [[0, 0, 0]], charge=0.5)], {"energy"})


def test_an_energy_that_a_network_adds_per_system_leaves_none_for_atoms(folder):
    changes = {"embedding_specs": CHARGED, "use_embedding_readout": True}
    path = save(network(**changes), folder / "readout.model")
    model = load(path)
    assert "atom_energies" not in model.info.outputs
    assert_agree(model.potential, calculator(path), {"mixture": mixture()}, "conservative")


def test_other_classes_of_networks_are_refused(folder):
    path = save(network(kind=modules.MACE), folder / "plain.model")
    with pytest.raises(
        ModelLoadError, match=r"expected a network of the class ScaleShiftMACE.*got MACE"
    ):
        load(path)
    torch.save({"weights": torch.ones(2)}, folder / "dictionary.model")
    with pytest.raises(ModelLoadError, match=r"class ScaleShiftMACE.*got dict"):
        load(folder / "dictionary.model")


def with_payload(payload, path):
    """Write a network that holds a payload."""
    made = network()
    made.payload = payload
    return save(made, path)


def test_a_malicious_file_is_refused_without_running_it(folder, tmp_path):
    owned = tmp_path / "owned"
    path = with_payload(Payload(pathlib.Path.touch, owned), folder / "bad.model")
    with pytest.raises(ModelLoadError, match=r"contains .*pathlib.*--trust-pickles"):
        load(path)
    assert not owned.exists()
    registry.load(f"mace:{path}", trust=Trust(pickles=True))
    assert owned.exists()


def test_source_code_in_a_file_is_not_run(folder, tmp_path):
    """torch.fx stores networks as source code, which e3nn has put into published files."""
    owned = tmp_path / "owned"
    source = f"import pathlib; pathlib.Path({str(owned)!r}).touch()"
    body = {"_code": "def forward(self):\n    return None\n"}
    payload = Payload(torch.fx.graph_module.reduce_graph_module, body, source)
    path = with_payload(payload, folder / "source.model")
    (prediction,) = predict(load(path).potential, [System([8], [[0, 0, 0]])], {"energy"})
    assert np.isfinite(prediction.energy)
    assert not owned.exists()


def test_loading_leaves_global_state_alone(small):
    def state():
        return dict(os.environ), torch.get_default_dtype(), torch.get_float32_matmul_precision()

    before = state()
    registry.load(f"mace:{small}#variant=pbe", dtype="float64")
    assert state() == before


def test_a_published_name_is_looked_up_by_the_package(small, monkeypatch):
    known = {"tiny": "https://example.org/tiny.model"}
    monkeypatch.setattr(loader, "mace_mp_urls", known)
    monkeypatch.setattr(loader, "download_mace_mp_checkpoint", lambda _: str(small))
    info = registry.load("mace:tiny#variant=pbe").info
    assert (info.name, info.metadata["head"]) == ("mace-tiny", "pbe")
    monkeypatch.setattr(loader, "download_mace_mp_checkpoint", lambda _: 1 / 0)
    with pytest.raises(ModelLoadError, match=r"'mace:tiny' is not in the cache .*tiny.model"):
        registry.load("mace:tiny")
    with pytest.raises(ModelLoadError, match=r"mace publishes no such model.*it publishes tiny"):
        registry.load("mace:huge")
