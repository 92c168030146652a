"""Networks of fairchem agree with fairchem's own ASE calculator, on random weights.

Published weights are gated and come with no package.
"""

import functools
import os
import pathlib
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("fairchem.core", reason="fairchem is not installed: pip install '.[fairchem]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fairchem.core import FAIRChemCalculator
    from fairchem.core.units.mlip_unit import InferenceSettings, load_predict_unit
    from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint

from ase import Atoms
from ase.build import molecule

from tests.conftest import free_ports
from tests.models.families.agreement import assert_agree
from tests.models.families.fairchem_checkpoints import N_ELEMENTS, write
from tests.models.families.payload import Payload
from tests.models.families.systems import displaced, open_systems, ours, periodic, slab
from twinforce import Client
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.contract import check_potential
from twinforce_models.loading.model_file import file_sha256
from twinforce_models.potentials.fairchem import loader
from twinforce_models.prediction import predict, predict_batch
from twinforce_proto import InvalidSystemError, ModelLoadError, System
from twinforce_service.embedded import run_in_thread

FORCES = ("energy", "conservative_forces", "direct_forces")
TABLE = """
omol_elem_refs:
  1: {0: -13.6, 1: 0.0}
  8: {0: -2043.5, -1: -2045.0}
omat_elem_refs: [0.0, -1.1, -0.2, -0.3, -0.4, -0.5, -0.6, -0.7, -1.9]
"""

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fairchem")


@functools.cache
def checkpoint(folder, kind, **options):
    return write(folder, kind, **options)


@functools.cache
def few_neighbors(folder):
    return write(folder, "uma", backbone={"max_neighbors": 9})


@pytest.fixture(scope="module")
def table(folder):
    path = folder / "atoms.yaml"
    path.write_text(TABLE)
    return path


@functools.cache
def load(file, options, dtype="float64"):
    return registry.load(f"fairchem:{file}#{options}", dtype=dtype)


class OwnCalculator:
    """The project's calculator; net forces of direct heads are removed, as for all models here."""

    def __init__(self, file, task, dtype="float64", atoms=None):
        settings = InferenceSettings(base_precision_dtype=dtype)
        unit = load_predict_unit(file, settings, device="cpu", atom_refs=atoms)
        self._inner = FAIRChemCalculator(unit, task_name=task)
        self._is_direct = unit.model.module.backbone.regress_config.direct_forces

    def calculate(self, atoms):
        self._inner.calculate(atoms, ["energy"], [])
        self.results = self._inner.results
        if self._is_direct:
            self.results["forces"] -= self.results["forces"].mean(axis=0)


def charged():
    """Return molecules with charges and spins, as ASE atoms and as systems of ours."""
    found = {
        name: displaced(molecule(name)) for name in ("H2O", "CH3CH2OH", "NH3", "OH", "SO2", "C6H6")
    }
    states = zip(found.values(), (0, 1, -1, 0, 2, 0), (1, 2, 2, 2, 3, 1), strict=True)
    for atoms, charge, spin in states:
        atoms.info = {"charge": charge, "spin": spin}
    return found


def charged_system(atoms):
    info = atoms.info
    return System(
        atoms.numbers,
        atoms.positions,
        charge=info["charge"],
        spin_multiplicity=info["spin"],
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("task", ["omat", "omol"])
def test_a_batch_agrees_with_the_calculator(folder, dtype, task):
    file = checkpoint(folder, "uma")
    potential = load(file, f"variant={task}", dtype).potential
    assert potential.dtype == getattr(torch, dtype)
    systems = periodic()
    if task == "omol":
        for atoms in systems.values():
            atoms.info = {"charge": 0, "spin": 1}
    assert_agree(potential, OwnCalculator(file, task, dtype), systems, "conservative")


def test_tasks_differ(folder):
    file = checkpoint(folder, "uma")
    system = ours(periodic()["NaCl"])
    one, other = (
        predict(load(file, f"variant={task}").potential, [system], ["energy"])[0].energy
        for task in ("omat", "omol")
    )
    assert abs(one - other) > 0.01


@pytest.mark.parametrize("kind", ["uma", "esen"])
def test_charge_and_spin_belong_to_each_system(folder, kind):
    file = checkpoint(folder, kind)
    potential = load(file, "variant=omol").potential
    assert potential.uses_charge
    assert potential.uses_spin
    own, systems = OwnCalculator(file, "omol"), charged()
    batch = [charged_system(atoms) for atoms in systems.values()]
    predictions = predict(potential, batch, ["energy", "conservative_forces"])
    for atoms, prediction in zip(systems.values(), predictions, strict=True):
        own.calculate(atoms)
        assert prediction.energy == pytest.approx(own.results["energy"], abs=1e-8)
        forces = own.results["forces"]
        np.testing.assert_allclose(prediction.conservative_forces, forces, rtol=0, atol=1e-8)
    neutral = predict(
        potential, [System(systems["NH3"].numbers, systems["NH3"].positions)], ["energy"]
    )
    assert abs(neutral[0].energy - predictions[2].energy) > 1e-4


def test_other_tasks_have_no_charge(folder):
    potential = load(checkpoint(folder, "uma"), "variant=omat").potential
    assert not potential.uses_charge
    assert not potential.uses_spin


@pytest.mark.parametrize("kind", ["uma-direct", "esen-direct"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_direct_heads_agree_with_the_calculator(folder, kind, dtype):
    file = checkpoint(folder, kind)
    model = load(file, "variant=omol", dtype)
    assert model.info.metadata["trained_for"] == "direct"
    assert model.potential.outputs == {"energy", "atom_energies", "direct_forces", "direct_stress"}
    systems = periodic()
    for atoms in systems.values():
        atoms.info = {"charge": 0, "spin": 1}
    assert_agree(model.potential, OwnCalculator(file, "omol", dtype), systems, "direct")
    opened = {"ethanol": open_systems()["ethanol"], "slab": slab()[0]}
    assert_agree(model.potential, OwnCalculator(file, "omol", dtype), opened, "direct")


def test_a_direct_model_offers_its_gradient_only_if_asked(folder):
    file = checkpoint(folder, "uma-direct")
    potential = load(file, "variant=omat&untrained=conservative").potential
    direct = load(file, "variant=omat").potential
    system = ours(periodic()["water"])
    (both,) = predict(potential, [system], FORCES)
    (alone,) = predict(direct, [system], ["direct_forces"])
    np.testing.assert_allclose(both.direct_forces, alone.direct_forces, atol=1e-10)
    assert np.abs(both.direct_forces - both.conservative_forces).max() > 1e-3
    with pytest.raises(ModelLoadError, match=r"untrained: expected no value .*conservative"):
        load(checkpoint(folder, "uma"), "variant=omat&untrained=conservative")


def test_every_kind_of_boundary_shares_a_batch(folder):
    file = checkpoint(folder, "uma")
    wire = slab()[0]
    wire.pbc = [False, True, False]
    systems = {
        **{"ethanol": open_systems()["ethanol"], "slab": slab()[0], "wire": wire},
        **{"Cu": periodic()["Cu"], "far": Atoms("OO", [[0, 0, 0], [0, 0, 40.0]])},
        "lattice": Atoms("O", cell=[9.0, 9.0, 9.0], pbc=True),
    }
    potential = load(file, "variant=omat").potential
    assert_agree(potential, OwnCalculator(file, "omat"), systems, "conservative")
    alone = {"far": systems["far"]}
    assert_agree(potential, OwnCalculator(file, "omat"), alone, "conservative")


def test_only_the_nearest_neighbors_count(folder):
    file = few_neighbors(folder)
    potential = load(file, "variant=omat").potential
    assert potential.max_neighbors == 9
    assert_agree(potential, OwnCalculator(file, "omat"), periodic(), "conservative")
    system = [ours(periodic()["NaCl"])]
    every = load(checkpoint(folder, "uma"), "variant=omat").potential
    one, other = (predict(each, system, ["energy"])[0].energy for each in (potential, every))
    assert abs(one - other) > 1e-3


def test_lone_atoms_are_read_off_the_list_of_the_model(folder, table):
    file = checkpoint(folder, "uma")
    atom = Atoms("O", [[1.0, 2.0, 3.0]])
    for task, energy in (("omat", -1.9), ("omol", -2043.5)):
        potential = load(file, f"variant={task}&atoms={table}").potential
        water = ours(displaced(molecule("H2O")))
        found = predict(potential, [ours(atom), water], ["energy", "conservative_forces"])
        assert found[0].energy == pytest.approx(energy)
        np.testing.assert_array_equal(found[0].conservative_forces, np.zeros((1, 3)))
    ion = System([8], [[0, 0, 0]], charge=-1, spin_multiplicity=2)
    assert predict(potential, [ion], ["energy"])[0].energy == pytest.approx(-2045.0)
    own = OwnCalculator(file, "omol", atoms={"omol_elem_refs": {8: {0: -2043.5}}})
    assert_agree(potential, own, {"atom": atom}, "conservative")


def test_lone_atoms_without_a_list_are_refused(folder, table):
    file = checkpoint(folder, "uma")
    systems = [ours(molecule("H2O")), System([8], [[0, 0, 0]])]
    with pytest.raises(InvalidSystemError, match=r"systems\[1\].*energies of atoms alone"):
        predict(load(file, "variant=omat").potential, systems, ["energy"])
    potential = load(file, f"variant=omol&atoms={table}").potential
    with pytest.raises(InvalidSystemError, match="element 3 with charge 0"):
        predict(potential, [System([3], [[0, 0, 0]])], ["energy"])
    with pytest.raises(
        ModelLoadError, match=r"atoms: expected a file like iso_atom_elem_refs.yaml"
    ):
        load(file, f"variant=omol&atoms={file}")


def test_a_network_that_was_trained_on_lone_atoms_evaluates_them(folder):
    file = checkpoint(folder, "esen", supports_single_atoms=True)
    atoms = {"atom": Atoms("O"), "beside": displaced(molecule("H2O"))}
    assert_agree(load(file, "").potential, OwnCalculator(file, "omol"), atoms, "conservative")


@pytest.mark.parametrize(
    ("kind", "options"),
    [("uma", "variant=omat"), ("uma-direct", "variant=omol&untrained=conservative")],
)
def test_the_contract_is_kept(folder, kind, options):
    file = checkpoint(folder, kind, supports_single_atoms=True)
    report = check_potential(load(file, options).potential)
    report.raise_if_broken()
    assert not [check.name for check in report.checks if check.is_exempt]
    shown = {check.name: check for check in report.checks}
    for name in ("energy is invariant under rotation", "conservative outputs rotate"):
        assert shown[name].deviation < 1e-9


def test_float32_keeps_the_contract(folder):
    file = checkpoint(folder, "uma", supports_single_atoms=True)
    check_potential(load(file, "variant=omat", "float32").potential).raise_if_broken()


def test_float32_loses_nothing_to_the_size_of_a_box(folder):
    potential = load(checkpoint(folder, "uma"), "variant=omat", "float32").potential
    atoms = displaced(molecule("CH3CH2OH"))
    near = predict(potential, [ours(atoms)], ["conservative_forces"])[0]
    atoms.positions += 4321.0
    atoms.cell, atoms.pbc = [9000.0] * 3, True
    far = predict(potential, [ours(atoms)], ["conservative_forces"])[0]
    np.testing.assert_allclose(far.conservative_forces, near.conservative_forces, atol=1e-5)


def test_forces_can_be_differentiated_again(folder):
    """The non-conservativity of direct forces needs their derivatives, and energies curvatures."""
    potential = load(checkpoint(folder, "uma"), "variant=omat").potential
    batch = Batch.from_systems([ours(molecule("H2O"))], potential.cutoff)
    found = predict_batch(potential, batch, ["conservative_forces"], differentiable=True)
    assert found.conservative_forces.requires_grad


def test_charges_that_the_network_has_no_embedding_of_are_refused(folder):
    potential = load(checkpoint(folder, "uma"), "variant=omol").potential
    water = molecule("H2O")
    for charge, expected in ((0.5, "whole number"), (101, "from -100 to 100")):
        system = System(water.numbers, water.positions, charge=charge)
        with pytest.raises(InvalidSystemError, match=expected):
            predict(potential, [system], ["energy"])
    system = System(water.numbers, water.positions, spin_multiplicity=101)
    with pytest.raises(InvalidSystemError, match=r"spin_multiplicity.*from 1 to 100"):
        predict(potential, [system], ["energy"])


def test_the_task_must_be_named_if_there_are_several(folder):
    file = checkpoint(folder, "uma")
    with pytest.raises(ModelLoadError, match="variant: expected one of omat, omol, got none"):
        registry.load(f"fairchem:{file}")
    with pytest.raises(ModelLoadError, match="expected one of omat, omol, got oc20"):
        registry.load(f"fairchem:{file}#variant=oc20")
    info = load(checkpoint(folder, "esen"), "").info
    assert info.metadata["task"] == "omol"
    assert info.metadata["trained_for"] == "conservative"
    assert info.elements == tuple(range(1, N_ELEMENTS))


def test_forces_that_are_no_gradient_are_refused(folder):
    def change(_, targets):
        targets[1]["normalizer"]["rmsd"] = 3.0

    file = write(folder, "uma", change=change)
    with pytest.raises(ModelLoadError, match=r"expected the scale of the energy, 1.5.*got 3"):
        registry.load(f"fairchem:{file}#variant=omat")


def test_a_malicious_pickle_is_refused_without_running_it(tmp_path):
    owned, path = tmp_path / "owned", tmp_path / "bad.pt"
    payload = Payload(pathlib.Path.touch, owned)
    torch.save(MLIPInferenceCheckpoint(payload, {}, {}, {}), path)
    with pytest.raises(ModelLoadError, match=r"contains .*pathlib.*--trust-pickles"):
        registry.load(f"fairchem:{path}")
    torch.save({"weights": 1}, path)
    with pytest.raises(ModelLoadError, match="expected an inference checkpoint of fairchem 2"):
        registry.load(f"fairchem:{path}")
    assert not owned.exists()


def touching(owned):
    return {"_target_": "pathlib.Path.touch", "_args_": [str(owned)]}


@pytest.mark.parametrize("place", ["model", "head", "backbone", "argument", "normalizer"])
def test_settings_that_name_code_are_refused_without_running_it(folder, tmp_path, place):
    owned = tmp_path / "owned"

    def change(model, targets):
        if place == "model":
            model["_target_"] = "pathlib.Path.touch"
        elif place == "head":
            model["heads"]["efs"]["module"] = "pathlib.Path"
        elif place == "backbone":
            model["backbone"]["model"] = "pathlib.Path"
        elif place == "argument":
            model["backbone"]["act"] = touching(owned)
        else:
            targets[0]["normalizer"] = touching(owned)

    file = write(folder, "uma", change=change)
    with pytest.raises(ModelLoadError, match=r"expected .*pathlib"):
        registry.load(f"fairchem:{file}#variant=omat&sha256={file_sha256(file)}")
    assert not owned.exists()


def test_published_names(folder, monkeypatch, table):
    def offline(*_, **__):
        raise ConnectionError

    monkeypatch.setattr(loader.pretrained_mlip, "hf_hub_download", offline)
    expected = r"(?s)uma-s-1p2p1.pt.*serve the file: .*fairchem:.*These weights are gated"
    with pytest.raises(ModelLoadError, match=expected):
        registry.load("fairchem:uma-s-1p2p1#variant=omat")
    with pytest.raises(ModelLoadError, match=r"publishes no such model; it publishes uma-s-1p2p1"):
        registry.load("fairchem:uma-xxl#variant=omat")
    kept = {"uma-s-1p2p1.pt": checkpoint(folder, "uma"), "iso_atom_elem_refs.yaml": table}
    monkeypatch.setattr(
        loader.pretrained_mlip, "hf_hub_download", lambda *, filename, **_: str(kept[filename])
    )
    model = registry.load("fairchem:uma-s-1p2p1#variant=omat", dtype="float64")
    assert model.info.name == "uma-s-1p2p1-omat"
    found = predict(model.potential, [System([8], [[0, 0, 0]])], ["energy"])
    assert found[0].energy == pytest.approx(-1.9)


def test_loading_leaves_global_state_alone(folder):
    file = checkpoint(folder, "uma")
    torch.manual_seed(11)
    before = dict(os.environ), torch.get_default_dtype(), torch.get_rng_state().tolist()
    registry.load(f"fairchem:{file}#variant=omat", dtype="float64")
    after = dict(os.environ), torch.get_default_dtype(), torch.get_rng_state().tolist()
    assert after == before


def test_a_service_answers_with_charge_and_spin(folder):
    file = checkpoint(folder, "uma")
    system = charged_system(charged()["NH3"])
    (expected,) = predict(load(file, "variant=omol").potential, [system], ["energy"])
    settings = free_ports(model={"uma": f"fairchem:{file}#variant=omol"}, dtype="float64")
    with run_in_thread(settings) as server:
        for url in (server.grpc_url, server.rest_url):
            with Client(url) as client:
                answer = client.predict(system, model="uma", outputs=("energy",))
                assert answer.energy == pytest.approx(expected.energy, abs=1e-8)
