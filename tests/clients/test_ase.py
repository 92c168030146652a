import copy
import dataclasses
import pickle
import re
import warnings

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import fcc111
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength
from ase.filters import ExpCellFilter, FrechetCellFilter, UnitCellFilter
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from ase.stress import full_3x3_to_voigt_6_stress
from ase.vibrations import Vibrations

from tests.clients.conftest import url_of
from tests.clients.serving import ARGON, TOY, serve
from tests.dynamics.counting import CountingService
from tests.potentials import Soft, loaded
from tests.systems import molecule
from twinforce import (
    Client,
    Integrator,
    InvalidSystemError,
    Start,
    UnavailableError,
    UnknownModelError,
)
from twinforce.ase import (
    DirectForcesWarning,
    MultipleTimeStepping,
    TwinForceCalculator,
    system_of,
)
from twinforce.assess import assess
from twinforce.cli import run
from twinforce.md import draw_velocities
from twinforce_models.potentials.toys.lennard_jones import lennard_jones
from twinforce_models.prediction import predict
from twinforce_models.registry import LoadedModel, load

KINDS = ["conservative", "direct"]


def atoms_in_a_cell(seed=0):
    cell = [[7.6, 0, 0], [1.5, 7.6, 0], [0.3, -0.8, 7.6]]
    return Atoms(numbers=[ARGON] * 8, positions=molecule(8, seed).positions, cell=cell, pbc=True)


def atoms_without_cell(n_atoms=8, seed=0):
    return Atoms(numbers=[ARGON] * n_atoms, positions=molecule(n_atoms, seed).positions)


@pytest.fixture
def calculator(url):
    with TwinForceCalculator(url) as calculator:
        yield calculator


@pytest.fixture
def direct(url):
    with TwinForceCalculator(url, force_kind="direct") as calculator:
        yield calculator


class InProcess(Calculator):
    """A calculator with the same potential in this process, the reference for trajectories."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, force_kind):
        super().__init__()
        self._kind = force_kind
        self._potential = load(TOY, device="cpu", dtype="float64").potential

    def calculate(self, atoms, properties, system_changes):
        super().calculate(atoms, properties, system_changes)
        outputs = ("energy", f"{self._kind}_forces", f"{self._kind}_stress")
        (prediction,) = predict(self._potential, [system_of(atoms)], outputs)
        stress = getattr(prediction, f"{self._kind}_stress")
        self.results = {
            "energy": prediction.energy,
            "forces": np.array(getattr(prediction, f"{self._kind}_forces")),
            "stress": full_3x3_to_voigt_6_stress(stress),
        }


# Physics


def test_forces_are_the_slope_of_the_energy(calculator):
    atoms = atoms_in_a_cell()
    atoms.calc = calculator
    numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=[0, 5])
    np.testing.assert_allclose(atoms.get_forces()[[0, 5]], numerical, atol=1e-6)


def test_stress_is_the_slope_of_the_energy_under_strain(calculator):
    atoms = atoms_in_a_cell()
    atoms.calc = calculator
    numerical = calculate_numerical_stress(atoms, eps=1e-4)
    assert np.abs(numerical).max() > 1e-4
    np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-7)


def test_forces_and_energies_are_consistent_for_ase(calculator):
    atoms = atoms_in_a_cell()
    atoms.calc = calculator
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy())


@pytest.mark.parametrize("kind", KINDS)
def test_a_remote_trajectory_equals_one_in_process_step_for_step(url, kind):
    def trajectory_of(calculator):
        atoms = atoms_in_a_cell()
        rng = np.random.default_rng(0)
        draw_velocities(atoms, 50, rng)
        atoms.calc = calculator
        for _ in VelocityVerlet(atoms, 2 * units.fs).irun(40):
            yield atoms.positions.copy(), atoms.get_potential_energy(), atoms.get_momenta()

    with warnings.catch_warnings(), TwinForceCalculator(url, force_kind=kind) as calculator:
        warnings.simplefilter("ignore", DirectForcesWarning)
        for remote, local in zip(
            trajectory_of(calculator), trajectory_of(InProcess(kind)), strict=True
        ):
            for here, there in zip(remote, local, strict=True):
                np.testing.assert_allclose(here, there, rtol=1e-10, atol=1e-10)


def test_force_kind_selects_the_forces_and_stress_that_ase_sees(calculator, direct):
    here, there = atoms_in_a_cell(), atoms_in_a_cell()
    here.calc, there.calc = calculator, direct
    assert here.get_potential_energy() == pytest.approx(there.get_potential_energy())
    assert np.abs(here.get_forces() - there.get_forces()).max() > 1e-4
    for atoms, kind in ((here, "conservative"), (there, "direct")):
        atoms.get_stress()
        results, prediction = atoms.calc.results, atoms.calc.prediction
        np.testing.assert_array_equal(results["forces"], getattr(prediction, f"{kind}_forces"))
        voigt = full_3x3_to_voigt_6_stress(getattr(prediction, f"{kind}_stress"))
        np.testing.assert_array_equal(results["stress"], voigt)


def test_both_forces_come_from_one_pass(url):
    atoms = atoms_in_a_cell()
    with TwinForceCalculator(url, both_forces=True) as atoms.calc:
        atoms.get_forces()
        prediction, results = atoms.calc.prediction, atoms.calc.results
        assert prediction.conservative_forces is not None
        assert prediction.direct_forces is not None
        assert prediction.energy is not None
        np.testing.assert_array_equal(results["forces"], prediction.conservative_forces)


def test_extra_outputs_come_with_the_forces(url):
    atoms = atoms_in_a_cell()
    extra = ["atom_energies", "direct_stress"]
    with TwinForceCalculator(url, extra_outputs=extra) as atoms.calc:
        atoms.get_forces()
        assert atoms.calc.results.keys() == {"energy", "free_energy", "energies", "forces"}
        assert atoms.calc.prediction.direct_stress.shape == (3, 3)


# Number and content of requests


def test_unchanged_atoms_cause_no_request(calculator):
    atoms = atoms_in_a_cell()
    atoms.calc = calculator
    atoms.get_forces()
    prediction = calculator.prediction
    atoms.get_forces()
    atoms.get_potential_energy()
    assert calculator.get_property("forces", atoms.copy()) is not None
    atoms.set_initial_charges([0.1] * 8)
    atoms.set_initial_magnetic_moments([1.0] * 8)
    atoms.get_forces()
    assert calculator.prediction is prediction
    assert not calculator.calculation_required(atoms, ["energy", "forces"])
    atoms.positions[0, 0] += 1e-3
    assert calculator.calculation_required(atoms, ["energy"])
    atoms.get_forces()
    assert calculator.prediction is not prediction


@pytest.mark.parametrize("change", ["positions", "cell", "numbers", "pbc"])
def test_every_change_of_the_atoms_is_detected(calculator, change):
    atoms = atoms_in_a_cell()
    atoms.calc = calculator
    before = atoms.get_potential_energy()
    if change == "positions":
        atoms.positions[0] += 0.3
    elif change == "cell":
        atoms.set_cell(atoms.cell * 1.05)
    elif change == "numbers":
        del atoms[0]
    else:
        atoms.pbc = [True, True, False]
    assert atoms.get_potential_energy() != pytest.approx(before)
    assert len(atoms.get_forces()) == len(atoms)


def test_requesting_the_energy_computes_no_forces(calculator):
    atoms = atoms_in_a_cell()
    atoms.calc = calculator
    atoms.get_potential_energy()
    assert calculator.prediction.conservative_forces is None


def test_a_stress_after_forces_is_computed_alone_and_then_with_them(server):
    with (
        CountingService(server.grpc_url) as counting,
        TwinForceCalculator(counting.url) as calculator,
    ):
        atoms = atoms_in_a_cell()
        atoms.calc = calculator
        for seed in range(2):  # the second goes over the stream, which counts what is requested
            atoms.rattle(0.01, seed=seed)
            atoms.get_forces()
        atoms.get_stress()
        forces, stress = "conservative_forces energy", "conservative_stress"
        assert counting.requested == {"unary": 1, forces: 1, stress: 1}
        assert calculator.prediction.conservative_forces is not None
        assert calculator.prediction.conservative_stress is not None
        assert "forces" in calculator.results
        atoms.get_stress(), atoms.get_forces()
        assert counting.requested.total() == 3
        atoms.rattle(0.01)
        atoms.get_forces(), atoms.get_stress()
        both = "conservative_forces conservative_stress energy"
        assert (counting.requested[both], counting.requested.total()) == (1, 4)
        for seed in (1, 2):
            atoms.rattle(0.01, seed=seed)
            atoms.get_forces()
        assert (counting.requested[forces], counting.requested.total()) == (3, 6)
        assert calculator.prediction.conservative_stress is None


@pytest.mark.parametrize("cell", [None, [8.0, 8.0, 0.0], [[8, 0, 0], [0, 8, 0], [8, 8, 0]]])
def test_a_stress_requires_a_volume(calculator, cell):
    atoms = atoms_without_cell()
    if cell is not None:
        atoms.set_cell(cell)
        atoms.pbc = [True, True, False]
    atoms.calc = calculator
    with pytest.raises(PropertyNotImplementedError, match="expected a cell with a volume"):
        atoms.get_stress()
    with pytest.raises(PropertyNotImplementedError, match="expected a cell with a volume"):
        calculator.get_property("conservative_stress", atoms)
    assert atoms.get_forces().shape == (8, 3)


PERIODICITIES = {
    "crystal": [True, True, True],
    "slab": [True, True, False],
    "slab standing": [False, True, True],
    "wire": [False, True, False],
    "in a box": [False, False, False],
}


@pytest.mark.parametrize("pbc", PERIODICITIES.values(), ids=PERIODICITIES)
def test_stress_is_per_the_volume_of_the_cell_whatever_is_periodic(calculator, pbc):
    atoms = atoms_in_a_cell()
    atoms.pbc = pbc
    atoms.calc = calculator
    found = atoms.get_stress()
    numerical = []
    for first, second in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):  # the order of Voigt
        energies = []
        for size in (-1e-4, 1e-4):
            strain = np.eye(3)
            strain[first, second] += size / 2
            strain[second, first] += size / 2
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=False)
            strained.positions = atoms.positions @ strain
            strained.calc = calculator
            energies.append(strained.get_potential_energy())
        numerical.append((energies[1] - energies[0]) / 2e-4 / atoms.get_volume())
    assert np.abs(numerical).min() > 1e-6
    np.testing.assert_allclose(found, numerical, atol=1e-8)
    full = calculator.get_property("conservative_stress", atoms)
    np.testing.assert_allclose(full_3x3_to_voigt_6_stress(full), found)
    atoms.set_momenta(np.ones((8, 3)))
    assert atoms.get_stress(include_ideal_gas=True) == pytest.approx(
        found + atoms.get_kinetic_stress()
    )


def slab():
    atoms = fcc111("Ar", (2, 2, 2), a=5.0, vacuum=6.0)
    atoms.pbc = [True, True, False]
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.mark.parametrize("filter_type", [FrechetCellFilter, UnitCellFilter, ExpCellFilter])
def test_a_slab_is_relaxed_in_its_plane_with_a_mask(calculator, filter_type):
    def relaxed(calculator):
        atoms = slab()
        atoms.calc = calculator
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            masked = filter_type(atoms, mask=[True, True, False, False, False, True])
        FIRE(masked, logfile=None).run(fmax=0.01, steps=15)
        return atoms

    found, expected = relaxed(calculator), relaxed(InProcess("conservative"))
    height = slab().cell.array[2]
    np.testing.assert_allclose(found.cell.array[2], height, atol=1e-9)
    assert np.abs(found.cell.array - slab().cell.array).max() > 1e-3
    np.testing.assert_allclose(found.cell.array, expected.cell.array, atol=1e-9)
    np.testing.assert_allclose(found.positions, expected.positions, atol=1e-8)


def test_a_stress_that_the_model_refuses_costs_no_forces():
    """A model whose direct stress is defined for periodic systems only, as exported ones."""

    class IfPeriodic(Soft):
        outputs_if_periodic = frozenset({"direct_stress"})

    with (
        serve({"soft": loaded(IfPeriodic())}) as server,
        TwinForceCalculator(server.grpc_url, force_kind="direct") as calculator,
    ):
        atoms = atoms_in_a_cell()
        atoms.calc = calculator
        assert atoms.get_stress() is not None
        atoms.pbc = [True, True, False]
        assert atoms.get_forces().shape == (8, 3)
        with pytest.raises(PropertyNotImplementedError, match="direct_stress"):
            atoms.get_stress()
        atoms.rattle(0.01)
        assert atoms.get_forces().shape == (8, 3)


def test_a_system_that_is_no_longer_periodic_needs_no_stress(calculator):
    atoms = atoms_in_a_cell()
    atoms.calc = calculator
    atoms.get_stress()
    atoms.pbc = False
    assert atoms.get_forces().shape == (8, 3)


def test_results_are_not_shared_between_systems(calculator):
    first, second = atoms_in_a_cell(1), atoms_in_a_cell(2)
    first.calc = calculator
    forces = first.get_forces()
    results = calculator.results
    kept = {name: np.copy(value) for name, value in results.items()}
    second.calc = calculator
    second.get_forces()
    assert calculator.results is not results
    for name, value in kept.items():
        np.testing.assert_array_equal(results[name], value)
    results["forces"][:] = 0.0
    np.testing.assert_array_equal(forces, kept["forces"])
    np.testing.assert_array_equal(results.prediction.conservative_forces, kept["forces"])


def test_an_error_leaves_the_calculator_usable(calculator):
    atoms = atoms_in_a_cell()
    atoms.calc = calculator
    expected = atoms.get_forces()
    positions = atoms.positions.copy()
    atoms.positions[3, 1] = np.nan
    with pytest.raises(InvalidSystemError, match="positions"):
        atoms.get_forces()
    atoms.positions = positions
    np.testing.assert_allclose(atoms.get_forces(), expected)


# Charge and spin


def test_charge_and_spin_are_read_from_the_info_of_the_atoms():
    atoms = atoms_without_cell()
    assert (system_of(atoms).charge, system_of(atoms).spin_multiplicity) == (None, None)
    atoms.info.update(charge=-1, spin=2, spin_multiplicity=3)
    assert (system_of(atoms).charge, system_of(atoms).spin_multiplicity) == (-1, 3)
    del atoms.info["spin_multiplicity"]
    assert system_of(atoms).spin_multiplicity == 2
    atoms.info["spin"] = np.float64(3.0)
    assert system_of(atoms).spin_multiplicity == 3
    atoms.info.update(charge=None, spin=np.int64(1))
    assert (system_of(atoms).charge, system_of(atoms).spin_multiplicity) == (None, 1)
    del atoms.info["spin"]
    atoms.set_initial_charges([1.0] * 8)
    atoms.set_initial_magnetic_moments([1.0] * 8)
    assert (system_of(atoms).charge, system_of(atoms).spin_multiplicity) == (None, None)


def test_charge_and_spin_reach_the_model_and_their_changes_are_detected(transport):
    toy = dataclasses.replace(lennard_jones(), charge_energy=0.5, spin_energy=0.25)
    info = dataclasses.replace(loaded(toy, "ion").info, uses_charge=True, uses_spin=True)
    atoms = atoms_without_cell()
    with (
        serve({"ion": LoadedModel(info, toy)}) as server,
        TwinForceCalculator(url_of(server, transport)) as atoms.calc,
    ):
        neutral = atoms.get_potential_energy()
        atoms.info["charge"] = 2
        assert atoms.get_potential_energy() == pytest.approx(neutral + 4 * 0.5)
        atoms.info["spin"] = 3
        assert atoms.get_potential_energy() == pytest.approx(neutral + 4 * 0.5 + 2 * 0.25)
        prediction = atoms.calc.prediction
        atoms.info["comment"] = "neither charge nor spin"
        atoms.get_potential_energy()
        assert atoms.calc.prediction is prediction


@pytest.mark.parametrize(
    ("info", "text"),
    [
        ({"charge": 1}, "charge: expected none or 0, as model 'lj' does not use it, got 1"),
        ({"spin": 3}, "spin_multiplicity: expected none or 1, as model 'lj' does not use it"),
        ({"charge": "plus"}, "charge: expected a finite number, got 'plus'"),
        ({"spin": 0}, "spin_multiplicity: expected a whole number from 1"),
    ],
)
def test_charge_and_spin_that_a_model_does_not_use_are_refused_on_every_path(
    url, calculator, tmp_path, capsys, info, text
):
    """One text for the calculator, dynamics here and there, relaxation and the command line."""
    atoms = atoms_in_a_cell()
    draw_velocities(atoms, 50, np.random.default_rng(0))
    atoms.calc = calculator
    atoms.get_forces()
    atoms.info |= info
    path = tmp_path / "atoms.xyz"
    ase.io.write(path, atoms.copy())

    def moved(on_server):
        dynamics = MultipleTimeStepping(atoms, units.fs)
        list(dynamics.irun_on_server(1) if on_server else dynamics.irun(1))

    with Client(url) as client:
        paths = [
            atoms.get_forces,
            atoms.get_stress,
            lambda: client.predict(atoms),
            lambda: client.stream().predict(atoms),
            lambda: client.nonconservativity(atoms),
            lambda: moved(on_server=False),
            lambda: moved(on_server=True),
            lambda: list(client.relax(atoms)),
            lambda: list(
                client.propagate(Start(system_of(atoms), atoms.get_velocities(), Integrator()), 8)
            ),
            lambda: assess(client, atoms, tmp_path / "assessed", pieces=["loops"]),
        ]
        for act in paths:
            with pytest.raises(InvalidSystemError, match=re.escape(text)):
                act()
    for command in (["predict"], ["md"], ["md", "--on-server"]):
        assert run([*command, str(path), f"--url={url}"]) == 1
        assert text in capsys.readouterr().err


def test_atoms_that_are_relaxed_on_the_server_keep_their_constraints(url):
    atoms = atoms_without_cell()
    atoms.set_constraint(FixAtoms([0, -1]))
    with Client(url) as client:
        *_, last = client.relax(atoms, fmax=1e-3, fixed_atoms=[2])
        atoms.set_constraint(FixBondLength(0, 1))
        with pytest.raises(ValueError, match="expected FixAtoms only, got FixBondLength"):
            list(client.relax(atoms))
    moved = np.abs(last.positions - atoms.positions).max(axis=1) > 0
    np.testing.assert_array_equal(moved, [False, True, False, True, True, True, True, False])


def test_neutral_singlets_are_fine_for_any_model(calculator):
    atoms = atoms_in_a_cell()
    atoms.calc = calculator
    expected = atoms.get_potential_energy()
    atoms.info |= {"charge": 0, "spin": 1}
    assert atoms.get_potential_energy() == pytest.approx(expected)


# Drivers


@pytest.mark.parametrize("optimizer", [BFGS, FIRE])
def test_optimizers_converge(calculator, optimizer):
    atoms = atoms_without_cell()
    atoms.calc = calculator
    assert optimizer(atoms, logfile=None).run(fmax=1e-3, steps=500)
    assert np.abs(atoms.get_forces()).max() < 1e-3


def test_a_cell_is_relaxed(calculator):
    atoms = atoms_in_a_cell()
    atoms.set_cell(0.93 * atoms.cell, scale_atoms=True)
    atoms.calc = calculator
    before = abs(atoms.get_stress()).max()
    FIRE(UnitCellFilter(atoms), logfile=None).run(fmax=1e-3, steps=30)
    assert abs(atoms.get_stress()).max() < 0.5 * before


@pytest.mark.parametrize("is_parallel", [False, True])
def test_the_images_of_a_band_share_one_client(url, is_parallel):
    start = atoms_without_cell(5)
    end = start.copy()
    end.positions[-1] += [0.4, 0.3, 0.0]
    with Client(url) as client:
        images = [start, *(start.copy() for _ in range(3)), end]
        for image in images:
            image.calc = TwinForceCalculator(client)
        band = NEB(images, parallel=is_parallel, method="improvedtangent")
        band.interpolate()
        BFGS(band, logfile=None).run(fmax=0.05, steps=5)
        energies = [image.get_potential_energy() for image in images]
        for image, energy in zip(images, energies, strict=True):
            assert client.predict(system_of(image)).energy == pytest.approx(energy, abs=1e-10)


def test_a_shared_client_stays_open(url):
    with Client(url) as client:
        for _ in range(2):
            atoms = atoms_without_cell()
            with TwinForceCalculator(client) as atoms.calc:
                atoms.get_forces()


# Copies and files


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_copied_calculator_opens_its_own_connection(calculator, duplicate):
    atoms = atoms_in_a_cell()
    atoms.calc = calculator
    for _ in range(3):
        atoms.rattle(0.01)
        expected = atoms.get_forces()
    other = duplicate(atoms)
    np.testing.assert_array_equal(other.calc.results["forces"], expected)
    calculator.close()
    other.rattle(0.01, seed=5)
    assert other.get_forces().shape == expected.shape
    other.calc.close()


@pytest.mark.parametrize("name", ["atoms.traj", "atoms.extxyz", "atoms.json", "atoms.db"])
def test_results_are_written_to_files_and_read_back(calculator, tmp_path, name):
    atoms = atoms_in_a_cell()
    atoms.calc = calculator
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    ase.io.write(tmp_path / name, atoms)
    read = ase.io.read(tmp_path / name)
    assert isinstance(read.calc, SinglePointCalculator)
    assert read.get_potential_energy() == pytest.approx(energy)
    np.testing.assert_allclose(read.get_forces(), forces, atol=1e-7)
    np.testing.assert_allclose(read.get_stress(), stress, atol=1e-7)
    read.calc = calculator
    np.testing.assert_allclose(read.get_forces(), forces, atol=1e-5)


# Direct forces


USES = [
    ("geometry optimization", lambda atoms: BFGS(atoms, logfile=None).run(fmax=1e-5, steps=3)),
    ("geometry optimization", lambda atoms: FIRE(atoms, logfile=None).run(fmax=1e-5, steps=3)),
    ("without a thermostat", lambda atoms: VelocityVerlet(atoms, units.fs).run(3)),
    ("vibrations", lambda atoms: Vibrations(atoms, indices=[0], name="vib").run()),
]


@pytest.mark.parametrize(("purpose", "use"), USES)
def test_direct_forces_cause_one_warning_where_a_gradient_is_needed(
    direct, purpose, use, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    atoms = atoms_without_cell()
    atoms.calc = direct
    atoms.get_forces()
    atoms.rattle(0.01)
    with pytest.warns(DirectForcesWarning, match=purpose) as caught:
        use(atoms)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    use(atoms)


def test_a_line_search_on_direct_forces_causes_a_warning(direct):
    from ase.optimize import BFGSLineSearch

    atoms = atoms_without_cell()
    atoms.calc = direct
    atoms.get_forces()
    with pytest.warns(DirectForcesWarning, match="geometry optimization"):
        BFGSLineSearch(atoms, logfile=None).run(fmax=1e-5, steps=3)


def test_direct_forces_with_a_thermostat_cause_no_warning(direct):
    atoms = atoms_without_cell()
    rng = np.random.default_rng(0)
    draw_velocities(atoms, 50, rng)
    atoms.calc = direct
    Bussi(atoms, units.fs, 50, 100 * units.fs, rng=rng).run(3)
    friction = 0.01 / units.fs
    Langevin(atoms, units.fs, temperature_K=50, friction=friction, fixcm=False, rng=rng).run(3)


def test_conservative_forces_cause_no_warning(calculator):
    atoms = atoms_without_cell()
    atoms.calc = calculator
    VelocityVerlet(atoms, units.fs).run(3)
    BFGS(atoms, logfile=None).run(fmax=1e-5, steps=3)


# Parameters


def test_parameters_can_be_set_and_are_checked(calculator):
    atoms = atoms_in_a_cell()
    atoms.calc = calculator
    conservative = atoms.get_forces()
    calculator.set(force_kind="direct")
    assert not np.allclose(atoms.get_forces(), conservative)
    calculator.set(force_kind="conservative")
    np.testing.assert_allclose(atoms.get_forces(), conservative)
    with pytest.raises(ValueError, match="force_kind: expected"):
        calculator.set(force_kind="fast")
    with pytest.raises(TypeError, match="unknown parameter: forces"):
        calculator.set(forces="direct")
    assert calculator.name == "twinforce"


def test_parameters_changed_without_set_are_noticed(calculator):
    atoms = atoms_in_a_cell()
    atoms.calc = calculator
    conservative = atoms.get_forces()
    calculator.parameters["force_kind"] = "direct"
    direct = atoms.get_forces()
    assert np.abs(direct - conservative).max() > 1e-6
    np.testing.assert_array_equal(direct, calculator.prediction.direct_forces)
    calculator.parameters["model"] = "another"
    with pytest.raises(UnknownModelError):
        atoms.get_forces()
    calculator.parameters["force_kind"] = "both"
    with pytest.raises(ValueError, match="force_kind: expected"):
        atoms.get_forces()


def test_a_model_can_be_chosen_by_name(url):
    atoms = atoms_in_a_cell()
    with TwinForceCalculator(url, model="lj") as atoms.calc:
        atoms.get_forces()
        assert atoms.calc.prediction.provenance.model == "lj"


def test_an_unreachable_service_raises_unavailable():
    atoms = atoms_without_cell()
    with (
        TwinForceCalculator("grpc://127.0.0.1:9", reconnect_timeout=0.1) as atoms.calc,
        pytest.raises(UnavailableError, match="cannot reach"),
    ):
        atoms.get_forces()
