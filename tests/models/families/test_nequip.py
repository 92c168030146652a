"""NequIP and Allegro agree with nequip's own ASE calculator, on published and on random weights."""

import functools
import os
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch

pytest.importorskip("nequip", reason="nequip is not installed: pip install -e '.[nequip]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from allegro.model import AllegroModel
    from nequip.ase import NequIPCalculator
    from nequip.model import NequIPGNNModel
    from nequip.scripts import _package_utils as packaging
    from nequip.utils.global_state import set_global_state

from ase import Atoms
from ase.build import molecule

from tests.conftest import free_ports
from tests.models.families.agreement import assert_agree
from tests.models.families.systems import displaced, ours, periodic, slab
from tests.models.families.weights import WEIGHTS, weights
from twinforce import Client
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.contract import check_potential
from twinforce_models.loading.source import Trust
from twinforce_models.prediction import predict, predict_batch
from twinforce_proto import ModelLoadError, System, UnsupportedOutputError
from twinforce_service.embedded import run_in_thread

FILE = "toluene.pth"  # compiled by nequip 0.6.1; its energies are in kcal/mol
FORCES = {"energy", "conservative_forces"}
SHIFTS = {"O": -3.0, "Cu": -1.5}
PLAIN = {"type_names": ["O", "Cu"], "per_type_energy_shifts": SHIFTS}
CHANGES = {
    "plain": PLAIN,
    "cutoffs": PLAIN | {"per_edge_type_cutoff": {"O": 3.0, "Cu": {"O": 3.5, "Cu": 4.0}}},
    "types": {"type_names": ["O", "Water"]},
}
NETWORKS = {
    "nequip": (NequIPGNNModel, {"num_layers": 2, "num_features": 4, "radial_mlp_width": 8}),
    "allegro": (
        AllegroModel,
        {
            **{"num_layers": 2, "num_scalar_features": 8, "num_tensor_features": 4},
            "radial_chemical_embed": {
                "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
                "module_output_dim": 8,
                "num_bessels": 4,
            },
        },
    ),
}

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]


@contextmanager
def default_dtype(dtype=torch.float64):
    """The package works with coordinates in the default dtype, and expects float64."""
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module", autouse=True)
def package_state():
    """The package makes networks only after it has set the state of the process."""
    with default_dtype():
        set_global_state()


@pytest.fixture(scope="module")
def file():
    return weights(FILE)


@functools.cache
def load(place, trust=Trust(pickles=True)):  # noqa: B008
    return registry.load(f"nequip:{place}", trust=trust)


@functools.cache
def compiled_calculator(file, folder):
    named = folder / "toluene.nequip.pth"
    named.symlink_to(file)
    return NequIPCalculator.from_compiled_model(str(named), device="cpu")


@functools.cache
def random_package(folder, kind, dtype="float64", change="plain"):
    """Write a network with random weights as `nequip-package` does; return the file."""
    make, settings = NETWORKS[kind]
    common = {"seed": 3, "model_dtype": dtype, "r_max": 4.0, "l_max": 1, "avg_num_neighbors": 12.0}
    with default_dtype():
        network = make(**common | settings | CHANGES[change])
    path = folder / f"{kind}-{dtype}-{change}.nequip.zip"
    with torch.package.PackageExporter(path) as exporter:
        exporter.mock([f"{name}.**" for name in packaging._MOCK_MODULES])
        exporter.extern([f"{name}.**" for name in packaging._EXTERNAL_MODULES])
        exporter.intern([f"{name}.**" for name in packaging._INTERNAL_MODULES])
        networks = torch.nn.ModuleDict({"sole_model": network})
        exporter.save_pickle("model", "eager_model.pkl", networks)
        about = "package_version_id: 2\navailable_models: [eager]\n"
        exporter.save_text("model", "package_metadata.txt", about)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("nequip")


def oxides():
    """Return systems of both types of the random networks: a crystal, a slab and a molecule."""
    crystal = periodic()["Cu"]
    surface = slab()[0]
    for atoms in (crystal, surface):
        atoms.numbers[::3] = 8
    oxide = displaced(Atoms("CuOCu", [[0, 0, 0], [1.8, 0, 0], [1.8, 1.8, 0]]))
    return {"crystal": crystal, "slab": surface, "molecule": oxide}


def hydrocarbons():
    boxed = displaced(molecule("C2H6"))
    boxed.cell, boxed.pbc = np.diag([4.0, 4.5, 5.0]), True
    return {
        "toluene": displaced(molecule("C6H6")),
        "methane": displaced(molecule("CH4")),
        "box": boxed,
    }


def test_published_weights_agree_with_the_calculator(file, folder):
    """With molecules in the batch there are no stresses to compare; the box has them alone."""
    calculator, potential = compiled_calculator(file, folder), load(file).potential
    with default_dtype():
        assert_agree(potential, calculator, hydrocarbons(), "conservative")
        box = {"box": hydrocarbons()["box"]}
        assert_agree(potential, calculator, box, "conservative")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_package_agrees_with_the_calculator(folder, kind, dtype):
    path = random_package(folder, kind, dtype)
    with default_dtype():
        calculator = NequIPCalculator._from_saved_model(path, device="cpu")
        assert_agree(load(path).potential, calculator, oxides(), "conservative")
        crystal = {"crystal": oxides()["crystal"]}
        assert_agree(load(path).potential, calculator, crystal, "conservative")


def test_shorter_cutoffs_of_some_pairs_are_kept(folder):
    path = random_package(folder, "allegro", change="cutoffs")
    with default_dtype():
        calculator = NequIPCalculator._from_saved_model(path, device="cpu")
        assert_agree(load(path).potential, calculator, oxides(), "conservative")
    plain = load(random_package(folder, "allegro")).potential
    systems = [ours(oxides()["crystal"])]
    one, other = (predict(each, systems, FORCES)[0] for each in (plain, load(path).potential))
    assert abs(one.energy - other.energy) > 1e-6


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_contract_is_kept(folder, kind):
    report = check_potential(load(random_package(folder, kind)).potential)
    report.raise_if_broken()
    assert not any(check.is_exempt for check in report.checks)


def test_published_weights_keep_the_contract(file):
    box = ours(hydrocarbons()["box"])
    sheet = System(box.atomic_numbers[:4], box.positions[:4], box.cell, [True, True, False])
    report = check_potential(load(file).potential, [sheet, System([6], [[0, 0, 0]])])
    report.raise_if_broken()


def test_atoms_without_neighbors_share_a_batch_and_are_alone(file, folder):
    for place, number in ((file, 6), (random_package(folder, "nequip"), 8)):
        potential = load(place).potential
        atom, outputs = System([number], [[0, 0, 0]]), {"atom_energies", "conservative_forces"}
        pair = System([number] * 2, [[0, 0, 0], [1.5, 0, 0]])
        (alone,) = predict(potential, [atom], outputs)
        two = predict(potential, [atom, atom], outputs)
        beside, _ = predict(potential, [atom, pair], outputs)
        for other in (*two, beside):
            assert alone.atom_energies == pytest.approx(other.atom_energies, abs=1e-10)
            np.testing.assert_array_equal(other.conservative_forces, np.zeros((1, 3)))


def test_facts_are_those_of_the_file(file, folder):
    info = load(file).info
    assert (info.name, info.sha256, info.dtype) == ("toluene", WEIGHTS[FILE], "float64")
    assert (info.cutoff, info.elements, info.n_parameters) == (6.0, (1, 6), 363_096)
    info = load(random_package(folder, "nequip", "float32")).info
    assert (info.name, info.dtype, info.elements) == ("nequip-float32-plain", "float32", (8, 29))


def test_energies_in_other_units_are_converted(file):
    system = ours(hydrocarbons()["methane"])
    (as_is,) = predict(load(file).potential, [system], FORCES)
    (found,) = predict(load(f"{file}#energy_unit=kcal/mol").potential, [system], FORCES)
    assert found.energy == pytest.approx(as_is.energy * 0.0433641039, rel=1e-9)
    np.testing.assert_allclose(
        found.conservative_forces, as_is.conservative_forces * 0.0433641039, rtol=1e-8
    )
    with pytest.raises(ModelLoadError, match=r"energy_unit: expected one of eV, .*got 'Ry'"):
        load(f"{file}#energy_unit=Ry")


def test_a_package_is_refused_unless_its_author_is_trusted(folder):
    path = random_package(folder, "nequip")
    with pytest.raises(ModelLoadError, match=r"contains Python code.*#sha256=.*--trust-pickles"):
        load(path, trust=Trust())
    sha256 = load(path).info.sha256
    assert load(f"{path}#sha256={sha256}", trust=Trust()).info.sha256 == sha256


def test_what_is_no_model_of_nequip_is_refused(folder, tmp_path):
    class Doubled(torch.nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return 2 * values

    torch.jit.save(torch.jit.script(Doubled()), tmp_path / "other.pth")
    torch.save({"state_dict": {}}, tmp_path / "weights.pth")
    (tmp_path / "last.ckpt").write_bytes(b"")
    for name, message in (
        ("other.pth", "expected a model that nequip compiled.*without model_dtype, r_max"),
        ("weights.pth", "not a model in TorchScript"),
        ("last.ckpt", "expected a package of nequip, NAME.nequip.zip.*nequip-package build"),
    ):
        with pytest.raises(ModelLoadError, match=rf"(?s){name}: {message}"):
            load(tmp_path / name)
    path = random_package(folder, "nequip")
    with pytest.raises(ModelLoadError, match="saved in float64, got float32"):
        registry.load(f"nequip:{path}", dtype="float32", trust=Trust(pickles=True))


def test_types_must_be_elements(folder):
    path = random_package(folder, "nequip", change="types")
    with pytest.raises(ModelLoadError, match="expected symbols of elements, got Water"):
        load(path)


def test_there_are_no_second_derivatives(folder):
    potential = load(random_package(folder, "nequip")).potential
    batch = Batch.from_systems([ours(oxides()["molecule"])], potential.cutoff)
    with pytest.raises(UnsupportedOutputError, match="no second derivatives"):
        predict_batch(potential, batch, FORCES, differentiable=True)


def test_loading_leaves_global_state_alone(file, folder):
    def state():
        return dict(os.environ), torch.get_default_dtype(), torch.get_float32_matmul_precision()

    path, before = random_package(folder, "nequip"), state()
    registry.load(f"nequip:{path}", trust=Trust(pickles=True))
    registry.load(f"nequip:{file}")
    assert state() == before


def test_a_service_answers(file):
    settings = free_ports(model={"nequip": f"nequip:{file}"})
    system = ours(hydrocarbons()["methane"])
    (expected,) = predict(load(file).potential, [system], {"energy"})
    with run_in_thread(settings) as server, Client(server.grpc_url) as client:
        answer = client.predict(system, model="nequip", outputs=("energy",))
    assert answer.energy == pytest.approx(expected.energy, abs=1e-8)
