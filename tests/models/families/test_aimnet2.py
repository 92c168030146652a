"""AIMNet2 agrees with the package's own ASE calculator, on random weights.

No package carries published weights. The calculator computes in float32 only.
"""

import functools
import os
import pathlib
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("aimnet", reason="aimnet is not installed: pip install -e '.[aimnet2]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from aimnet.calculators import AIMNet2ASE, AIMNet2Calculator

from ase import Atoms
from ase.build import molecule
from ase.units import Bohr, Hartree

from tests.conftest import free_ports
from tests.models.families.agreement import allowed, reference
from tests.models.families.aimnet2_files import ELEMENTS, write
from tests.models.families.payload import Payload
from tests.models.families.systems import displaced, water
from twinforce import Client
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.contract import check_potential
from twinforce_models.potentials import aimnet2
from twinforce_models.prediction import predict, predict_batch
from twinforce_proto import ModelLoadError, System
from twinforce_service.embedded import run_in_thread

FORCES = ("energy", "conservative_forces")
PARTS = {
    "whole": {},
    "charged": {"dispersion": False},
    "dispersed": {"coulomb": False},
    "bare": {"coulomb": False, "dispersion": False},
    "open shell": {"channels": 2},
}

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("aimnet2")


@functools.cache
def file(folder, kind="whole"):
    return write(folder, kind, **PARTS[kind])


@functools.cache
def load(path, dtype=None):
    return registry.load(f"aimnet2:{path}", dtype=dtype)


class OwnCalculator:
    def __init__(self, path):
        self._base = AIMNet2Calculator(str(path), device="cpu")

    def calculate(self, atoms):
        charge, spin = (
            atoms.info.get(key, default) for key, default in (("charge", 0), ("mult", 1))
        )
        calculator = AIMNet2ASE(self._base, charge=charge, mult=spin)
        stress = ["stress"] if atoms.pbc.any() else []
        calculator.calculate(atoms, ["energy", "forces", *stress])
        self.results = calculator.results


def ours(atoms):
    info = atoms.info
    return System(
        atoms.numbers,
        atoms.positions,
        np.array(atoms.cell),
        atoms.pbc,
        charge=info.get("charge"),
        spin_multiplicity=info.get("mult"),
    )


def molecules():
    """Return molecules of several charges and spins, and an atom alone."""
    found = {name: displaced(molecule(name)) for name in ("H2O", "CH3CH2OH", "NH3", "OH", "C6H6")}
    for name, charge, spin in (("NH3", 1, 2), ("OH", -1, 1), ("H2O", 1, 2), ("C6H6", -1, 2)):
        found[name].info = {"charge": charge, "mult": spin}
    far = Atoms("OCO", [[0, 0, 0], [0, 0, 1.2], [0, 3.0, 21.0]])  # beyond all cutoffs
    return {**found, "atom": Atoms("O"), "far": far}


def boxes():
    """Return a liquid, a sheet and a wire of water, all in the same box."""
    found = {"water": water(), "sheet": water(), "wire": water()}
    found["sheet"].pbc = [True, True, False]
    found["wire"].pbc = [False, False, True]
    return found


def assert_agree(potential, own, systems, outputs=FORCES):
    predictions = predict(potential, [ours(atoms) for atoms in systems.values()], outputs)
    for (name, atoms), prediction in zip(systems.items(), predictions, strict=True):
        expected = reference(own, atoms)
        for key, output in zip(("energy", "forces", "stress"), outputs, strict=False):
            value = expected.get(key)
            if value is not None:
                atol = allowed(torch.float32, key, expected, len(atoms))
                mine = getattr(prediction, output)
                np.testing.assert_allclose(mine, value, rtol=0, atol=atol, err_msg=f"{name}: {key}")


@pytest.mark.parametrize("kind", PARTS)
def test_a_batch_of_molecules_agrees_with_the_calculator(folder, kind):
    path = file(folder, kind)
    assert_agree(load(path).potential, OwnCalculator(path), molecules())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_periodic_systems_agree_with_the_calculator(folder, dtype):
    potential, own = load(file(folder), dtype).potential, OwnCalculator(file(folder))
    assert_agree(potential, own, boxes(), (*FORCES, "conservative_stress"))


def test_molecules_and_periodic_systems_share_a_batch(folder):
    own = OwnCalculator(file(folder))
    for dtype in ("float32", "float64"):
        assert_agree(load(file(folder), dtype).potential, own, {**molecules(), **boxes()})


def test_every_part_of_the_energy_counts(folder):
    system = ours(boxes()["water"])
    energies = [
        predict(load(file(folder, kind)).potential, [system], ["energy"])[0].energy
        for kind in ("whole", "charged", "dispersed", "bare")
    ]
    assert np.abs(np.subtract.outer(energies, energies))[np.triu_indices(4, 1)].min() > 1e-3


def test_charges_in_a_molecule_interact_at_any_distance(folder):
    """Two ions attract as the inverse of their distance, far beyond the cutoff."""
    potential = load(file(folder), "float64").potential
    energies = []
    for apart in (100.0, 200.0, 1e6):
        system = System([8, 1], [[0, 0, 0], [apart, 0, 0]], charge=-1)
        energies.append(predict(potential, [system], ["energy"])[0].energy)
    near, middle, never = energies
    assert near - never == pytest.approx(2 * (middle - never), rel=1e-3)
    assert abs(near - never) > 1e-6 * Hartree * Bohr


def test_spin_matters_to_open_shell_networks_only(folder):
    opened, closed = (load(file(folder, kind)).potential for kind in ("open shell", "whole"))
    assert (opened.uses_spin, closed.uses_spin) == (True, False)
    atoms = molecule("OH")
    energies = [
        predict(
            opened, [System(atoms.numbers, atoms.positions, spin_multiplicity=spin)], ["energy"]
        )
        for spin in (2, 4)
    ]
    assert abs(energies[0][0].energy - energies[1][0].energy) > 1e-4


def test_the_contract_is_kept_but_for_declared_exceptions(folder):
    report = check_potential(load(file(folder), "float64").potential)
    report.raise_if_broken()
    exempt = {check.name for check in report.checks if check.is_exempt}
    assert exempt == {"energy and forces continuous at the cutoff"}
    check_potential(load(file(folder)).potential).raise_if_broken()


def test_without_charges_and_dispersion_the_cutoff_is_that_of_the_network(folder):
    assert load(file(folder, "bare")).potential.cutoff == pytest.approx(5.0)
    assert load(file(folder)).potential.cutoff == pytest.approx(15.0)


def test_forces_can_be_differentiated_again(folder):
    potential = load(file(folder), "float64").potential
    batch = Batch.from_systems([ours(molecule("H2O"))], potential.cutoff)
    found = predict_batch(potential, batch, ["conservative_forces"], differentiable=True)
    assert found.conservative_forces.requires_grad


def test_float32_keeps_the_digits_of_large_energies(folder):
    systems = [ours(atoms) for atoms in molecules().values()]
    exact, rounded = (
        predict(load(file(folder), dtype).potential, systems, ["energy"])
        for dtype in ("float64", "float32")
    )
    for one, other in zip(exact, rounded, strict=True):
        assert one.energy == pytest.approx(other.energy, abs=1e-4)
        assert one.energy < -1000


def test_names_and_files(folder, tmp_path, monkeypatch):
    info = load(file(folder)).info
    assert info.elements == ELEMENTS
    assert info.metadata["charges"].startswith("all in a molecule")
    monkeypatch.setattr(aimnet2, "get_registry_model_path", lambda _: 1 / 0)
    expected = (
        r"'aimnet2:aimnet2-nse' is not in the cache .*download https://.*aimnet2nse_wb97m_0.pt"
    )
    with pytest.raises(ModelLoadError, match=expected):
        registry.load("aimnet2:aimnet2-nse")
    with pytest.raises(ModelLoadError, match=r"publishes no such model; .*aimnet2-wb97m-d3_0"):
        registry.load("aimnet2:aimnet9")
    former = tmp_path / "old.jpt"
    former.write_bytes(b"")
    with pytest.raises(ModelLoadError, match="convert it with `aimnet convert`"):
        registry.load(f"aimnet2:{former}")
    monkeypatch.setattr(aimnet2, "get_registry_model_path", lambda _: file(folder))
    published = registry.load("aimnet2:aimnet2-2025").info
    assert published.name == "aimnet2-2025"
    assert published.metadata["family"] == "b973c-2025-d3"


def test_models_of_reactions_take_no_charge(folder, monkeypatch):
    """The package adds dispersion to them, and refuses ions."""
    monkeypatch.setattr(aimnet2, "get_registry_model_path", lambda _: file(folder, "bare"))
    reactions = registry.load("aimnet2:aimnet2-rxn")
    assert not reactions.potential.uses_charge
    system = [ours(molecule("H2O"))]
    one, other = (
        predict(each.potential, system, ["energy"])[0].energy
        for each in (reactions, load(file(folder, "bare")))
    )
    assert one < other - 1e-5


def test_a_malicious_file_is_refused_without_running_it(folder, tmp_path):
    owned, path = tmp_path / "owned", tmp_path / "bad.pt"
    torch.save({"model_yaml": Payload(pathlib.Path.touch, owned)}, path)
    with pytest.raises(ModelLoadError, match=r"contains .*pathlib.*--trust-pickles"):
        registry.load(f"aimnet2:{path}")
    saved = torch.load(file(folder), weights_only=True)
    saved["model_yaml"] = f"class: pathlib.Path.touch\nkwargs: {{self: {owned}}}\n"
    torch.save(saved, path)
    with pytest.raises(ModelLoadError, match=r"not a model of AIMNet2: .*pathlib.Path.touch"):
        registry.load(f"aimnet2:{path}")
    torch.save({"weights": 1}, path)
    with pytest.raises(ModelLoadError, match="expected a model of AIMNet2, with its settings"):
        registry.load(f"aimnet2:{path}")
    assert not owned.exists()


def test_loading_leaves_global_state_alone(folder):
    path = file(folder)
    before = dict(os.environ), torch.get_default_dtype(), torch.get_rng_state().tolist()
    registry.load(f"aimnet2:{path}")
    after = dict(os.environ), torch.get_default_dtype(), torch.get_rng_state().tolist()
    assert after == before


def test_a_service_answers_about_ions(folder):
    settings = free_ports(model={"aim": f"aimnet2:{file(folder)}"})
    system = ours(molecules()["NH3"])
    system = System(system.atomic_numbers, system.positions, charge=1)
    (expected,) = predict(load(file(folder)).potential, [system], ["energy"])
    with run_in_thread(settings) as server, Client(server.grpc_url) as client:
        answer = client.predict(system, model="aim", outputs=("energy",))
    assert answer.energy == pytest.approx(expected.energy, abs=1e-5)
