"""Dynamics of atoms that are changed between steps, on the client and on the server alike."""

import dataclasses
import io
import warnings

import ase.io
import numpy as np
import pytest
from ase import Atom, units
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength

from tests.clients.serving import ARGON, serve
from tests.dynamics.test_ase_dynamics import ENSEMBLES, KRYPTON, argon
from tests.potentials import Soft, loaded
from twinforce import InvalidSystemError, UnsupportedOutputError
from twinforce.ase import (
    NVE,
    SVR,
    MultipleTimeStepping,
    TwinForceCalculator,
    repartition_hydrogen_mass,
)
from twinforce.md import LogWriter, MDSettings, molecular_dynamics
from twinforce_models.potentials.toys.lennard_jones import lennard_jones
from twinforce_models.registry import LoadedModel

FS = units.fs


@pytest.fixture(scope="module")
def two_models():
    """A service of an ion toy, whose energy depends on charge and spin, and of a weaker one."""
    ion = dataclasses.replace(lennard_jones(), charge_energy=0.5, spin_energy=0.25)
    info = dataclasses.replace(loaded(ion, "ion").info, uses_charge=True, uses_spin=True)
    weak = dataclasses.replace(
        loaded(Soft(), "weak").info, elements=(ARGON, KRYPTON), sha256="1" * 64
    )
    soft = Soft()
    soft.elements = (ARGON, KRYPTON)
    with serve({"ion": LoadedModel(info, ion), "weak": LoadedModel(weak, soft)}) as server:
        yield server


@pytest.fixture
def calculator(two_models):
    with TwinForceCalculator(two_models.grpc_url, model="ion") as calculator:
        yield calculator


def swap(atoms):
    """Swap an argon and a krypton atom, which leaves the composition as it is."""
    atoms.numbers[[0, 7]] = atoms.numbers[[7, 0]]


def replace_element(atoms):
    atoms.symbols[0] = "Kr"


def charge(atoms):
    atoms.info["charge"] = 2


def spin(atoms):
    atoms.info["spin"] = 3


def open_one_direction(atoms):
    atoms.pbc[2] = False


def strain(atoms):
    atoms.set_cell(1.02 * atoms.cell, scale_atoms=True)


def stretch_cell_alone(atoms):
    atoms.cell[2, 2] *= 1.1


def move(atoms):
    atoms.positions[3] += 0.1


def stop(atoms):
    atoms.set_momenta(np.zeros((len(atoms), 3)))


def without_momenta(atoms):
    atoms.set_array("momenta", None)


def heavier(atoms):
    atoms.set_masses([80.0] * len(atoms))


def isotope(atoms):
    masses = atoms.get_masses()
    masses[0] = 36.0
    atoms.set_masses(masses)


def fix(atoms):
    atoms.set_constraint(FixAtoms([0, -1]))


def fix_behind_the_back(atoms):
    """Fix atoms without ASE, which leaves the momenta of the atoms."""
    atoms.constraints.append(FixAtoms([2]))


def fix_none(atoms):
    atoms.set_constraint(FixAtoms([]))


def remove(atoms):
    del atoms[4]


def add(atoms):
    atoms.append(Atom("Ar", [1.8, 1.8, 1.8]))


def other_model(atoms):
    atoms.calc.set(model="weak")


def other_calculator(atoms):
    atoms.calc = TwinForceCalculator(atoms.calc.client, model="weak")


def other_model_behind_the_back(atoms):
    atoms.calc.parameters["model"] = "weak"


CHANGES = [
    swap,
    replace_element,
    charge,
    spin,
    open_one_direction,
    strain,
    stretch_cell_alone,
    move,
    stop,
    without_momenta,
    heavier,
    isotope,
    fix,
    fix_behind_the_back,
    fix_none,
    remove,
    add,
    other_model,
    other_model_behind_the_back,
    other_calculator,
]


def steps(dynamics, n_steps, on_server):
    if on_server:
        for _ in dynamics.irun_on_server(n_steps):
            pass
    else:
        dynamics.run(n_steps)


def fresh_copy(atoms):
    """Return the same atoms with a calculator that knows nothing of them."""
    copy = atoms.copy()
    old = atoms.calc
    copy.calc = TwinForceCalculator(old.client, model=old.parameters["model"])
    return copy


@pytest.mark.parametrize("on_server", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_atoms_are_moved_as_if_they_had_always_been_so(calculator, change, on_server):
    atoms = argon(calculator)
    dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=2)
    steps(dynamics, 2, on_server)
    change(atoms)
    expected = fresh_copy(atoms)
    reference = MultipleTimeStepping(expected, 2 * FS, inner_steps=2)
    assert dynamics.energy == pytest.approx(reference.energy, abs=1e-10)
    assert dynamics.temperature_k == pytest.approx(reference.temperature_k, nan_ok=True)
    assert dynamics.species_temperatures == pytest.approx(reference.species_temperatures)
    steps(dynamics, 3, on_server)
    reference.run(3)
    np.testing.assert_allclose(atoms.positions, expected.positions, rtol=0, atol=1e-10)
    np.testing.assert_allclose(atoms.get_momenta(), expected.get_momenta(), rtol=0, atol=1e-10)
    assert dynamics.energy == pytest.approx(reference.energy, abs=1e-10)
    assert dynamics.disagreement.species_rmse == pytest.approx(reference.disagreement.species_rmse)
    assert atoms.info.keys() == expected.info.keys()
    # What ASE is told is computed anew by nobody, and it is right.
    for atoms_again in (atoms, expected):
        prediction = atoms_again.calc.prediction
        atoms_again.get_potential_energy(), atoms_again.get_forces()
        assert atoms_again.calc.prediction is prediction
    np.testing.assert_allclose(atoms.get_forces(), expected.get_forces(), rtol=0, atol=1e-9)
    assert atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=1e-9)


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("change", CHANGES)
def test_atoms_changed_at_a_snapshot_go_on_changed_on_the_server(calculator, change, interval):
    ends = []
    ensemble = SVR(temperature_k=60.0, relaxation_fs=50)
    for is_there in (False, True):
        atoms = argon(TwinForceCalculator(calculator.client, model="ion"))
        dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=2, ensemble=ensemble, seed=3)
        if change in (stop, without_momenta):  # which a rescaling thermostat cannot start from
            dynamics.ensemble = NVE()
        dynamics.run(1)
        moving = (
            dynamics.irun_on_server(5, interval)
            if is_there
            else (dynamics.irun(5) if interval == 1 else every_second(dynamics))
        )
        is_changed = False
        lasts = []
        for is_last in moving:
            lasts.append(is_last)
            if dynamics.get_number_of_steps() == 3 and not is_changed:
                is_changed = True
                change(atoms)
        last = dynamics.get_number_of_steps(), lasts[-1]
        ends.append((atoms, dynamics.conserved_energy(), last, dynamics.rng.random()))
    (here, energy, last_here, drawn), (there, energy_there, last_there, drawn_there) = ends
    np.testing.assert_allclose(there.positions, here.positions, rtol=0, atol=1e-9)
    np.testing.assert_allclose(there.get_momenta(), here.get_momenta(), rtol=0, atol=1e-9)
    assert energy_there == pytest.approx(energy, abs=1e-9)
    assert last_there == last_here == (6, True)
    assert drawn_there == drawn


def every_second(dynamics):
    """Yield at the steps that an interval of two after step 1 yields at."""
    for is_last in dynamics.irun(5):
        if is_last or dynamics.get_number_of_steps() in (3, 5):
            yield is_last


def test_an_observer_may_swap_elements_at_each_step(calculator):
    """The Monte Carlo move of an alloy: half of the steps of a run see each arrangement."""
    atoms = argon(calculator)
    dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=2)
    energies = []
    dynamics.attach(lambda: swap(atoms))
    dynamics.attach(lambda: energies.append((dynamics.energy, atoms.copy())))
    dynamics.run(4)
    assert len(energies) == 5
    for energy, seen in energies:
        seen.calc = TwinForceCalculator(calculator.client, model="ion")
        assert energy == pytest.approx(seen.get_potential_energy(), abs=1e-10)


def test_trajectories_hold_the_results_of_the_changed_atoms(calculator, tmp_path):
    atoms = argon(calculator)
    path = tmp_path / "run.traj"
    with MultipleTimeStepping(atoms, 2 * FS, inner_steps=2, trajectory=path) as dynamics:
        for change in (swap, heavier, remove, charge):
            dynamics.run(1)
            change(atoms)
        dynamics.run(1)
    images = ase.io.read(path, ":")
    assert [len(image) for image in images] == [8, 8, 8, 8, 7, 7][: len(images)]
    for image in images:
        assert isinstance(image.calc, SinglePointCalculator)
        again = image.copy()
        again.calc = TwinForceCalculator(calculator.client, model="ion")
        assert image.get_potential_energy() == pytest.approx(again.get_potential_energy())


def test_the_log_has_a_new_header_for_new_columns(calculator, tmp_path):
    atoms = argon(calculator)
    path = tmp_path / "run.log"
    with MultipleTimeStepping(atoms, 2 * FS, inner_steps=2, logfile=path) as dynamics:
        dynamics.run(1)
        atoms.symbols[:] = "Ar"
        atoms.pbc = False
        dynamics.run(1)
    rows = [line.split() for line in path.read_text().splitlines()]
    assert set(rows[0]) - set(rows[3]) == {"ΔF(Kr)", "V/Å³"}
    assert rows[3][0] == "time/ps"
    assert len(rows[3]) == len(rows[4])


# Other calculators of ASE


def test_parameters_and_species_of_an_ase_calculator_are_noticed():
    def copper_like(calculator):
        atoms = argon(calculator)
        atoms.numbers[:] = 29
        return atoms

    atoms = copper_like(LennardJones(sigma=3.0, epsilon=0.01, rc=6.0))
    dynamics = MultipleTimeStepping(atoms, FS, forces="conservative")
    dynamics.run(2)
    atoms.calc.set(epsilon=0.02)
    expected = atoms.copy()
    expected.calc = LennardJones(sigma=3.0, epsilon=0.02, rc=6.0)
    dynamics.run(2)
    MultipleTimeStepping(expected, FS, forces="conservative").run(2)
    np.testing.assert_allclose(atoms.positions, expected.positions, rtol=0, atol=1e-12)

    atoms = copper_like(EMT())
    dynamics = MultipleTimeStepping(atoms, FS, forces="conservative")
    dynamics.run(2)
    atoms.symbols[0] = "Au"
    expected = atoms.copy()
    expected.calc = EMT()
    dynamics.run(2)
    MultipleTimeStepping(expected, FS, forces="conservative").run(2)
    np.testing.assert_allclose(atoms.positions, expected.positions, rtol=0, atol=1e-12)
    assert atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy())


class Spring(Calculator):
    """Atoms on springs to the origin, whose stiffness is in an array."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        stiffness, positions = self.parameters["stiffness"][0], self.atoms.positions
        energy = 0.5 * stiffness * (positions**2).sum()
        self.results = {"energy": energy, "forces": -stiffness * positions}


@pytest.mark.parametrize("kind", [np.array, list])
def test_a_parameter_that_is_changed_in_place_is_noticed(kind):
    atoms = argon(Spring(stiffness=kind([1.0])))
    dynamics = MultipleTimeStepping(atoms, 0.2 * FS, forces="conservative")
    dynamics.run(1)
    atoms.calc.parameters["stiffness"][0] = 5.0
    expected = atoms.copy()
    expected.calc = Spring(stiffness=kind([5.0]))
    dynamics.run(2)
    MultipleTimeStepping(expected, 0.2 * FS, forces="conservative").run(2)
    np.testing.assert_allclose(atoms.positions, expected.positions, rtol=0, atol=1e-12)


def test_a_service_may_take_over_from_an_ase_calculator(calculator):
    atoms = argon(LennardJones(sigma=3.0, epsilon=0.01, rc=6.0))
    dynamics = MultipleTimeStepping(atoms, FS, forces="conservative")
    dynamics.run(1)
    atoms.calc = calculator
    expected = fresh_copy(atoms)
    steps(dynamics, 2, on_server=True)
    MultipleTimeStepping(expected, FS, forces="conservative").run(2)
    np.testing.assert_allclose(atoms.positions, expected.positions, rtol=0, atol=1e-10)
    assert dynamics.get_number_of_steps() == 3


@pytest.mark.parametrize("on_server", [False, True])
def test_the_atoms_of_dynamics_may_be_replaced(calculator, on_server):
    old, new = argon(calculator), argon(calculator)
    new.rattle(0.1, seed=4)
    dynamics = MultipleTimeStepping(old, 2 * FS, inner_steps=2)
    steps(dynamics, 2, on_server)
    left = old.positions.copy()
    dynamics.atoms = new
    expected = fresh_copy(new)
    steps(dynamics, 2, on_server)
    MultipleTimeStepping(expected, 2 * FS, inner_steps=2).run(2)
    np.testing.assert_allclose(new.positions, expected.positions, rtol=0, atol=1e-10)
    assert (old.positions == left).all()


@pytest.mark.parametrize("on_server", [False, True])
@pytest.mark.parametrize("is_begun", [False, True])
def test_momenta_that_are_not_finite_are_refused(calculator, on_server, is_begun):
    atoms = argon(calculator)
    dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=2)
    if is_begun:
        dynamics.run(1)
    atoms.arrays["momenta"][5, 2] = np.inf
    positions = atoms.positions.copy()
    with pytest.raises(ValueError, match=r"momenta: expected finite .*inf\] of atom 5 \("):
        steps(dynamics, 1, on_server)
    assert (atoms.positions == positions).all()


def test_two_systems_may_share_one_calculator(calculator):
    first, second = argon(calculator), argon(calculator)
    swap(second)
    expected = [fresh_copy(first), fresh_copy(second)]
    runs = [MultipleTimeStepping(atoms, 2 * FS, inner_steps=2) for atoms in (first, second)]
    for _ in range(3):
        for run, atoms, other in zip(runs, (first, second), (second, first), strict=True):
            run.run(1)
            other.get_forces()
            assert run.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
    for atoms, reference in zip((first, second), expected, strict=True):
        MultipleTimeStepping(reference, 2 * FS, inner_steps=2).run(3)
        np.testing.assert_allclose(atoms.positions, reference.positions, rtol=0, atol=1e-11)


# Changes that are refused, with the atoms left as they are


@pytest.mark.parametrize("on_server", [False, True])
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda atoms: setattr(atoms, "calc", None), ValueError, "expected a calculator, got none"),
        (
            lambda atoms: atoms.set_constraint(FixBondLength(0, 1)),
            ValueError,
            "expected FixAtoms only, got FixBondLength",
        ),
        (
            lambda atoms: atoms.set_constraint(FixAtoms(range(8))),
            ValueError,
            "expected an atom that can move",
        ),
        (
            lambda atoms: atoms.set_masses([0.0] + [1.0] * 7),
            ValueError,
            r"0.0 of atom 0 \(Ar\)",
        ),
        (lambda atoms: atoms.set_masses([np.nan] * 8), ValueError, "masses: .* got nan of atom 0"),
        (lambda atoms: atoms.set_masses([np.inf] * 8), ValueError, "masses: .* got inf of atom 0"),
        (lambda atoms: atoms.symbols.__setitem__(0, "X"), InvalidSystemError, "1 to 118, got 0"),
        (lambda atoms: atoms.info.update(charge="two"), InvalidSystemError, "charge: .* 'two'"),
        (
            lambda atoms: setattr(atoms, "calc", EMT()),
            UnsupportedOutputError,
            "expected a model with direct_forces",
        ),
        (lambda atoms: atoms.positions.fill(np.nan), InvalidSystemError, "positions"),
    ],
)
def test_changes_that_cannot_be_followed_are_refused(calculator, on_server, change, error, text):
    atoms = argon(calculator)
    dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=2)
    dynamics.run(1)
    change(atoms)
    positions = atoms.positions.copy()
    with pytest.raises(error, match=text):
        steps(dynamics, 1, on_server)
    np.testing.assert_array_equal(atoms.positions, positions)
    assert dynamics.get_number_of_steps() == 1


@pytest.mark.parametrize("on_server", [False, True])
def test_constant_pressure_refuses_what_it_cannot_do_at_any_step(calculator, on_server):
    for change, text in ((fix, "expected none at constant"), (open_one_direction, "pbc: expected")):
        atoms = argon(calculator)
        dynamics = MultipleTimeStepping(atoms, 2 * FS, ensemble=ENSEMBLES["isotropic"], seed=0)
        steps(dynamics, 1, on_server)
        change(atoms)
        with pytest.raises(ValueError, match=text):
            steps(dynamics, 1, on_server)


def test_a_change_in_the_middle_of_a_step_is_never_overwritten(calculator):
    """A calculator that changes the atoms while it evaluates them, as a thread could."""

    class Meddling(TwinForceCalculator):
        meddle = staticmethod(lambda: None)

        def evaluate(self, system, outputs):
            prediction = super().evaluate(system, outputs)
            self.meddle()
            return prediction

    for change in CHANGES[:-3]:
        atoms = argon(Meddling(calculator.client, model="ion"))
        dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=2)
        dynamics.run(1)
        if change is fix_none:
            continue
        atoms.calc.meddle = lambda change=change, atoms=atoms: (
            change(atoms),
            setattr(atoms.calc, "meddle", lambda: None),
        )
        with pytest.raises(RuntimeError, match="no change in the middle of a step"):
            dynamics.run(1)
        assert dynamics.get_number_of_steps() == 1
        expected = fresh_copy(atoms)
        dynamics.run(2)
        MultipleTimeStepping(expected, 2 * FS, inner_steps=2).run(2)
        np.testing.assert_allclose(atoms.positions, expected.positions, rtol=0, atol=1e-10)


def test_a_log_of_values_keeps_its_columns(calculator):
    atoms = argon(calculator)
    file = io.StringIO()
    log = LogWriter(file)
    states = molecular_dynamics(atoms, MDSettings(n_steps=4, time_step_fs=2.0))
    log.write(next(states))
    log.write(next(states))
    atoms.symbols[:] = "Ar"
    changed = next(states)
    with pytest.raises(ValueError, match=r"log: expected the columns .*temperature_Kr_k.*; got "):
        log.write(changed)
    assert len(file.getvalue().splitlines()) == 3


@pytest.mark.parametrize("is_begun", [False, True])
@pytest.mark.parametrize("name", ["svr", "local"])
def test_stopped_atoms_are_refused_by_thermostats_that_rescale(calculator, name, is_begun):
    for on_server in (False, True):
        atoms = argon(calculator)
        dynamics = MultipleTimeStepping(atoms, 2 * FS, ensemble=ENSEMBLES[name], seed=0)
        if is_begun:
            steps(dynamics, 1, on_server)
        stop(atoms)
        with pytest.raises(ValueError, match="momenta: expected nonzero momenta"):
            steps(dynamics, 1, on_server)
        assert dynamics.get_number_of_steps() == is_begun


# The dynamics' own attributes


@pytest.mark.parametrize("on_server", [False, True])
def test_an_ensemble_may_be_replaced_for_annealing(calculator, on_server):
    ends = []
    for temperatures in ([100.0, 20.0], [20.0, 20.0]):
        atoms = argon(calculator)
        dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=2, seed=0)
        for temperature_k in temperatures:
            dynamics.ensemble = SVR(temperature_k=temperature_k, relaxation_fs=20)
            steps(dynamics, 20, on_server)
            if temperature_k == 100.0:
                assert dynamics.temperature_k > 60
        ends.append(dynamics.temperature_k)
    assert max(ends) < 45
    dynamics.ensemble = ENSEMBLES["isotropic"]
    volume = dynamics.volume
    steps(dynamics, 2, on_server)
    assert dynamics.volume != volume


def test_a_generator_that_others_draw_from_goes_on_alike(calculator):
    drawn = []
    for is_there in (False, True):
        dynamics = MultipleTimeStepping(
            argon(calculator), 2 * FS, inner_steps=2, ensemble=ENSEMBLES["svr"], seed=5
        )
        dynamics.run(0)
        run = dynamics.irun_on_server(4) if is_there else dynamics.irun(4)
        drawn.append([dynamics.rng.random() for _ in run if dynamics.get_number_of_steps()])
    assert drawn[0] == drawn[1]


def test_time_step_forces_and_inner_steps_stay(calculator):
    dynamics = MultipleTimeStepping(argon(calculator), 2 * FS, inner_steps=2)
    dynamics.run(1)
    for name, value in (("inner_steps", 4), ("forces", "conservative")):
        with pytest.raises(AttributeError):
            setattr(dynamics, name, value)
    dynamics.dt = FS
    for on_server in (False, True):
        with pytest.raises(ValueError, match=r"dt: expected .* create new dynamics"):
            steps(dynamics, 1, on_server)


def test_hydrogen_masses_may_be_repartitioned_in_the_middle(calculator):
    """On methane's geometry, with elements that the toy knows; only the masses matter here."""
    atoms = argon(calculator)
    dynamics = MultipleTimeStepping(atoms, FS, inner_steps=2)
    dynamics.run(1)
    before = dynamics.kinetic_energy
    heavier(atoms)
    assert dynamics.kinetic_energy != pytest.approx(before)
    assert dynamics.kinetic_energy == pytest.approx(atoms.get_kinetic_energy())
    assert callable(repartition_hydrogen_mass)


def test_a_restart_file_of_changed_atoms_holds_the_changed_atoms(calculator, tmp_path):
    path = tmp_path / "run.npz"
    atoms = argon(calculator)
    dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=2)
    dynamics.run(1)
    swap(atoms), isotope(atoms), fix(atoms)
    dynamics.save(path)
    again = fresh_copy(atoms)
    other = MultipleTimeStepping(again, 2 * FS, inner_steps=2)
    other.restore(path)
    assert other.energy == dynamics.energy
    dynamics.run(2), other.run(2)
    np.testing.assert_array_equal(again.positions, atoms.positions)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (charge, "charge None"),
        (spin, "spin_multiplicity None"),
        (fix, r"fixed_atoms \[\]"),
        (open_one_direction, "pbc"),
        (isotope, "other masses"),
        (swap, "other atoms"),
    ],
)
def test_a_restart_with_other_conditions_is_refused(calculator, tmp_path, change, text):
    path = tmp_path / "run.npz"
    MultipleTimeStepping(argon(calculator), FS).save(path)
    atoms = argon(calculator)
    change(atoms)
    with pytest.raises(ValueError, match=text):
        MultipleTimeStepping(atoms, FS).restore(path)


def test_nothing_is_evaluated_again_if_nothing_was_changed(calculator):
    atoms = argon(calculator)
    dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=2)
    dynamics.run(1)
    prediction = calculator.prediction
    atoms.info["comment"] = "a tag changes nothing"
    atoms.set_tags(range(8))
    atoms.set_initial_charges([0.5] * 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dynamics.conserved_energy()
    assert calculator.prediction is prediction
