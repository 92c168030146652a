"""Any ASE calculator is served: its energies, forces and stresses reach the client unchanged."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from tests.conftest import free_ports
from tests.models.loading.packages import install
from tests.potentials import loaded
from twinforce import Client
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.contract import check_potential
from twinforce_models.loading.source import Trust
from twinforce_models.nonconservativity import jacobian_rows
from twinforce_models.potentials.ase_calculator import AsePotential
from twinforce_models.prediction import predict, predict_batch
from twinforce_proto import (
    ModelLoadError,
    PredictionError,
    System,
    UnsupportedElementError,
    UnsupportedOutputError,
)
from twinforce_service.embedded import run_in_thread

EMT_SPEC = "ase:ase.calculators.emt:EMT#elements=Al-Cu-Ag-Au-Ni-Pd-Pt"
LJ_SPEC = "ase:ase.calculators.lj:LennardJones#sigma=2.3&epsilon=0.4&rc=4.0&smooth=true"
OUTPUTS = ("energy", "conservative_forces", "conservative_stress")


def metals():
    """Return a crystal, an alloy in a skewed cell, a slab in a box and a cluster."""
    copper = bulk("Cu", cubic=True)
    alloy = bulk("Au").repeat((2, 1, 2))
    alloy.numbers[1] = 29
    slab = fcc111("Al", (2, 2, 2), vacuum=5.0)
    cluster = Atoms("Pt4", bulk("Pt", cubic=True).positions)
    found = [copper, alloy, slab, cluster]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.1, seed=seed)
    return found


def ours(atoms):
    return System(atoms.numbers, atoms.positions, np.array(atoms.cell), atoms.pbc)


@pytest.mark.parametrize(
    ("spec", "calculator"),
    [(EMT_SPEC, EMT()), (LJ_SPEC, LennardJones(sigma=2.3, epsilon=0.4, rc=4.0, smooth=True))],
)
def test_predictions_are_those_of_the_calculator(spec, calculator):
    potential = registry.load(spec).potential
    assert potential.outputs == frozenset(OUTPUTS)
    everyone = metals()
    in_cells = [atoms for atoms in everyone if atoms.cell.rank == 3]
    assert not all(atoms.pbc.all() for atoms in in_cells)
    for chosen, outputs in ((everyone, OUTPUTS[:2]), (in_cells, OUTPUTS), (everyone, OUTPUTS[:1])):
        predictions = predict(potential, [ours(atoms) for atoms in chosen], outputs)
        for atoms, prediction in zip(chosen, predictions, strict=True):
            atoms.calc = calculator
            assert prediction.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
            if len(outputs) > 1:
                forces = atoms.get_forces()
                np.testing.assert_allclose(prediction.conservative_forces, forces, atol=1e-10)
            if len(outputs) > 2:
                stress = atoms.get_stress(voigt=False)
                np.testing.assert_allclose(prediction.conservative_stress, stress, atol=1e-10)


def test_the_contract_is_kept():
    spec = "ase:ase.calculators.lj:LennardJones#sigma=1.5&rc=5.0&smooth=true&elements=He-Ne"
    report = check_potential(registry.load(spec).potential)
    broken = {check.name for check in report.broken}
    assert broken <= {"energy and forces continuous at the cutoff"}  # atoms on top of each other


def test_a_service_answers_and_only_the_culprit_fails():
    settings = free_ports(model={"emt": EMT_SPEC})
    copper = ours(metals()[0])
    with run_in_thread(settings) as server, Client(server.grpc_url) as client:
        info = next(info for info in client.models() if info.name == "emt")
        assert (info.architecture, info.dtype) == ("ase", "float64")
        assert info.metadata["calculator"] == "ase.calculators.emt:EMT"
        answer = client.predict(copper, model="emt", outputs=OUTPUTS)
        with pytest.raises(UnsupportedElementError):
            client.predict(System([8], [[0, 0, 0]]), model="emt", outputs=("energy",))
    atoms = metals()[0]
    atoms.calc = EMT()
    np.testing.assert_allclose(answer.conservative_forces, atoms.get_forces(), atol=1e-10)


def test_arguments_are_part_of_the_hash():
    first, same, other = (
        registry.load(f"ase:ase.calculators.lj:LennardJones#{options}").info.sha256
        for options in ("rc=4.0&sigma=2", "sigma=2&rc=4.0", "rc=5.0&sigma=2")
    )
    assert first == same != other


def test_either_part_of_a_hybrid_may_be_a_calculator():
    hybrid = f"conservative:{LJ_SPEC}+direct:toy:lennard-jones"
    system = ours(metals()[0])
    (mine,) = predict(registry.load(hybrid).potential, [system], OUTPUTS)
    (same,) = predict(registry.load(LJ_SPEC).potential, [system], OUTPUTS)
    assert mine.energy == same.energy
    np.testing.assert_array_equal(mine.conservative_stress, same.conservative_stress)


class Selective(Calculator):
    """Has a stress of crystals only, as it says itself or by leaving it out."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, *, is_silent):
        super().__init__()
        self._is_silent = is_silent

    def calculate(self, atoms=None, properties=(), changes=()):
        super().calculate(atoms, properties, changes)
        self.results = {"energy": 1.0, "forces": np.zeros((len(atoms), 3))}
        if "stress" in properties and atoms.pbc.all():
            self.results["stress"] = np.zeros(6)
        elif "stress" in properties and not self._is_silent:
            raise PropertyNotImplementedError("no stress")


@pytest.mark.parametrize("is_silent", [True, False])
def test_a_calculator_says_itself_of_which_systems_it_has_a_stress(is_silent):
    potential = AsePotential(Selective(is_silent=is_silent))
    copper, _, slab, _ = map(ours, metals())
    models = {"some": loaded(potential, "some")}
    with (
        run_in_thread(free_ports(), lambda: models) as server,
        Client(server.grpc_url) as client,
    ):
        both = client.predict([copper, copper], OUTPUTS)
        assert all(each.conservative_stress is not None for each in both)
        assert client.predict(slab, OUTPUTS[:2]).energy == 1.0
        with pytest.raises(UnsupportedOutputError, match=r"lacks the .*stress of a system with"):
            client.predict(slab, OUTPUTS)


def test_a_stress_that_one_system_asks_for_costs_another_nothing():
    potential = AsePotential(EMT())
    _, _, slab, cluster = map(ours, metals())
    batch = Batch.from_systems([slab, cluster], 1.0, potential.dtype, potential.device)
    together = predict_batch(potential, batch, OUTPUTS)
    alone = [predict(potential, [system], OUTPUTS[:2])[0] for system in (slab, cluster)]
    assert together.energy.tolist() == [each.energy for each in alone]
    forces = np.concatenate([each.conservative_forces for each in alone])
    np.testing.assert_array_equal(together.conservative_forces, forces)


class Keeping(Calculator):
    """Keeps what it has computed before, and tells a stress of crystals only."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms=None, *_):
        self.results |= {"energy": 1.0, "forces": np.zeros((len(atoms), 3))}
        if atoms.pbc.all():
            self.results["stress"] = np.ones(6)


def test_nothing_is_left_of_the_system_before():
    potential = AsePotential(Keeping())
    crystal, _, slab, _ = map(ours, metals())
    assert (predict(potential, [crystal], OUTPUTS)[0].conservative_stress != 0).any()
    with pytest.raises(UnsupportedOutputError, match="lacks the stress"):
        predict(potential, [slab], OUTPUTS)


class Smeared(Calculator):
    """Tells a free energy, no stress, and where the atoms are."""

    implemented_properties = ("energy", "free_energy", "forces")

    def calculate(self, atoms=None, *_):
        self.seen = atoms.get_scaled_positions(wrap=False) if atoms.cell.rank == 3 else None
        self.results = {"energy": 1.0, "free_energy": 2.0, "forces": np.zeros((len(atoms), 3))}
        if 2 in atoms.numbers:
            raise RuntimeError("no convergence")
        if 3 in atoms.numbers:
            del self.results["energy"]


def test_the_energy_is_the_one_that_the_forces_belong_to():
    potential = AsePotential(Smeared())
    assert potential.outputs == {"energy", "conservative_forces"}
    hydrogen = System([1], [[0, 0, 0]])
    assert predict(potential, [hydrogen], OUTPUTS[:2])[0].energy == 2.0
    assert predict(potential, [hydrogen], OUTPUTS[:1])[0].energy == 2.0


def test_atoms_lie_inside_an_open_cell():
    calculator = Smeared()
    box = molecule("H2O", vacuum=3.0)
    predict(AsePotential(calculator), [ours(box)], OUTPUTS[:1])
    assert ((calculator.seen > 0.2) & (calculator.seen < 0.8)).all()


@pytest.mark.parametrize(
    ("number", "message"), [(2, "RuntimeError: no convergence"), (3, "returned no energy")]
)
def test_a_failing_calculator_says_why(number, message):
    with pytest.raises(PredictionError, match=message):
        predict(AsePotential(Smeared()), [System([number], [[0, 0, 0]])], OUTPUTS[:2])


class Careless(Calculator):
    """Returns what ASE does not expect, named by the number of the first atom."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms=None, *_):
        zeros = np.zeros((len(atoms), 3))
        self.results = {"energy": np.array([2.5]), "forces": zeros, "stress": np.zeros((3, 3))}
        wrong = {
            2: {"energy": np.zeros(2)},
            3: {"energy": "low"},
            4: {"forces": zeros[1:]},
            5: {"forces": zeros.ravel()},
            6: {"forces": zeros + 1j},
            7: {"stress": np.zeros(9)},
        }
        self.results |= wrong.get(atoms.numbers[0], {})
        if atoms.numbers[0] == 8:
            raise SystemExit("stop")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (2, r"returned energy of shape \(2,\), expected \(\) or \(1,\)"),
        (3, "returned no real numbers as energy"),
        (4, r"returned forces of shape \(1, 3\), expected \(2, 3\)"),
        (5, r"returned forces of shape \(6,\), expected \(2, 3\)"),
        (6, "returned no real numbers as forces"),
        (7, r"returned stress of shape \(9,\), expected \(6,\) or \(3, 3\)"),
        (8, "the calculator failed: SystemExit: stop"),
    ],
)
def test_results_of_another_shape_are_an_error_that_names_them(number, message):
    system = System([number, 1], [[0, 0, 0], [0, 0, 1]], np.eye(3) * 5, True)
    with pytest.raises(PredictionError, match=message):
        predict(AsePotential(Careless()), [system], OUTPUTS)


def test_an_energy_may_be_an_array_of_one():
    potential = AsePotential(Careless())
    assert predict(potential, [System([1], [[0, 0, 0]])], OUTPUTS[:1])[0].energy == 2.5


def test_there_are_no_second_derivatives():
    potential = registry.load(LJ_SPEC).potential
    batch = Batch.from_systems([ours(metals()[0])], potential.cutoff)
    with pytest.raises(UnsupportedOutputError, match="no second derivatives"):
        jacobian_rows(potential, batch, range(3), "conservative_forces")


def test_code_of_other_packages_needs_trust(monkeypatch, tmp_path):
    code = "import pathlib\npathlib.Path(__file__).with_name('owned').touch()\n"
    code += "from ase.calculators.emt import EMT as Mine\n"
    site = install(monkeypatch, tmp_path, "mycalc", code)
    with pytest.raises(ModelLoadError, match=r"package mycalc.*--trust-packages mycalc"):
        registry.load("ase:mycalc:Mine")
    assert not (site / "owned").exists()
    info = registry.load("ase:mycalc:Mine", trust=Trust(packages=["mycalc"])).info
    assert info.name == "mine"


def test_the_server_trusts_the_packages_that_its_user_names(monkeypatch, tmp_path):
    code = "from ase.calculators.emt import EMT as Mine\n"
    install(monkeypatch, tmp_path, "mycalc", code)
    settings = free_ports(
        model={"mine": "ase:mycalc:Mine#elements=Cu"}, trust_packages="tblite, mycalc"
    )
    with run_in_thread(settings) as server, Client(server.grpc_url) as client:
        answer = client.predict(ours(metals()[0]), model="mine", outputs=("energy",))
    assert np.isfinite(answer.energy)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ase:emt", "expected ase:package.module:Factory"),
        ("ase:ase.calculators.nothing:EMT", "No module named 'ase.calculators.nothing'"),
        ("ase:ase.cli.main:main", "--trust-packages ase"),
        ("ase:ase.calculators.emt:XMT", "no attribute 'XMT'"),
        ("ase:ase.calculators.mixing:SumCalculator", "TypeError: .*calcs"),
        ("ase:ase.calculators.calculator:Calculator", "implements the energy, got Calculator"),
        ("ase:ase.calculators.emt:EMT#elements=Cu-Xx", "elements: expected symbols.*got Xx"),
    ],
)
def test_specs_that_make_no_calculator_are_errors(spec, message):
    with pytest.raises(ModelLoadError, match=message):
        registry.load(spec)


def test_a_calculator_computes_in_float64():
    with pytest.raises(ModelLoadError, match="expected float64 on the CPU"):
        registry.load(LJ_SPEC, dtype="float32")
