"""The dynamics for ASE, on a real service of a toy whose direct forces are deliberately wrong."""

import dataclasses
import warnings

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixBondLength
from ase.md.verlet import VelocityVerlet

from tests.clients.serving import ARGON, serve
from tests.dynamics.counting import CountingService
from tests.potentials import WithoutDirect, loaded
from tests.systems import molecule
from twinforce import UnsupportedOutputError
from twinforce.ase import (
    NPT,
    NVE,
    SVR,
    DirectForcesWarning,
    ForceDisagreementWarning,
    Langevin,
    MultipleTimeStepping,
    TwinForceCalculator,
)
from twinforce.md import draw_velocities
from twinforce_models.potentials.toys.lennard_jones import lennard_jones
from twinforce_models.registry import LoadedModel

KRYPTON = 36
FS, BAR = units.fs, units.bar
GLOBAL = SVR(temperature_k=60.0, relaxation_fs=50)
LANGEVIN = Langevin(temperature_k=60.0, relaxation_fs=50)
ENSEMBLES = {
    "nve": NVE(),
    "svr": GLOBAL,
    "local": SVR(temperature_k=60.0, relaxation_fs=50, scope="local"),
    "langevin": LANGEVIN,
    "isotropic": NPT(thermostat=GLOBAL, pressure_bar=1600.0, relaxation_fs=500),
    "anisotropic": NPT(
        thermostat=LANGEVIN, pressure_bar=1600.0, relaxation_fs=500, coupling="anisotropic"
    ),
}


def argon(calculator=None):
    cell = [[7.6, 0, 0], [1.5, 7.6, 0], [0.3, -0.8, 7.6]]
    numbers = [ARGON] * 5 + [KRYPTON] * 3
    atoms = Atoms(numbers=numbers, positions=molecule(8).positions, cell=cell, pbc=True)
    draw_velocities(atoms, 60, np.random.default_rng(0))
    atoms.calc = calculator
    return atoms


@pytest.fixture
def calculator(url):
    with TwinForceCalculator(url) as calculator:
        yield calculator


def test_an_ase_script_changes_two_lines_to_use_multiple_time_stepping(calculator, tmp_path):
    atoms = argon(calculator)
    path = tmp_path / "run.traj"
    log = tmp_path / "run.log"
    with MultipleTimeStepping(
        atoms, 2 * FS, inner_steps=4, trajectory=path, logfile=log, loginterval=2
    ) as dynamics:
        assert dynamics.run(6)
    images = ase.io.read(path, ":")
    assert len(images) == 4
    assert images[-1].get_potential_energy() == pytest.approx(dynamics.energy)
    np.testing.assert_allclose(images[-1].positions, atoms.positions)
    assert images[-1].info["force_rmse_Kr"] == dynamics.disagreement.species_rmse["Kr"]
    header, *rows = log.read_text().splitlines()
    assert len(rows) == 4
    last = dict(zip(header.split(), map(float, rows[-1].split()), strict=True))
    assert last["time/ps"] == pytest.approx(0.048)
    assert last["conserved/eV"] == pytest.approx(dynamics.conserved_energy(), abs=1e-4)
    assert last["ΔF(Ar)"] == pytest.approx(dynamics.disagreement.species_rmse["Ar"], abs=1e-4)
    assert dynamics.get_time() == pytest.approx(48 * FS)


@pytest.mark.parametrize("forces", ["hybrid", "conservative", "direct"])
def test_one_inner_step_is_velocity_verlet_of_ase(url, forces):
    kind = "direct" if forces == "direct" else "conservative"
    with warnings.catch_warnings(), TwinForceCalculator(url, force_kind=kind) as calculator:
        warnings.simplefilter("ignore", DirectForcesWarning)
        expected = argon(calculator)
        VelocityVerlet(expected, 2 * FS).run(40)
        found = argon(calculator)
        MultipleTimeStepping(found, 2 * FS, inner_steps=1, forces=forces).run(40)
        np.testing.assert_allclose(found.positions, expected.positions, rtol=0, atol=1e-11)
        np.testing.assert_allclose(found.get_momenta(), expected.get_momenta(), atol=1e-11)
        np.testing.assert_allclose(found.get_forces(), expected.get_forces(), atol=1e-10)


def test_an_ase_calculator_with_one_kind_of_forces_can_drive():
    expected, found = (argon(EMT()) for _ in range(2))
    for atoms in (expected, found):
        atoms.numbers[:] = 29
    VelocityVerlet(expected, FS).run(5)
    MultipleTimeStepping(found, FS, forces="conservative").run(5)
    np.testing.assert_allclose(found.positions, expected.positions, rtol=0, atol=1e-11)


@pytest.mark.parametrize("ensemble", ["nve", "langevin", "isotropic"])
@pytest.mark.parametrize("inner_steps", [1, 8])
def test_an_outer_step_requests_both_forces_once_and_direct_forces_otherwise(
    server, ensemble, inner_steps
):
    with CountingService(server.grpc_url) as counting:
        atoms = argon()
        with TwinForceCalculator(counting.url) as atoms.calc:
            dynamics = MultipleTimeStepping(
                atoms, 2 * FS, inner_steps=inner_steps, ensemble=ENSEMBLES[ensemble], seed=0
            )
            dynamics.run(5)
            counting_start = {"conservative_forces direct_forces energy": 1}
            direct, both = "direct_forces", "conservative_forces direct_forces energy"
            if ensemble == "isotropic":
                direct = "direct_forces direct_stress"
                both = "conservative_forces conservative_stress direct_forces direct_stress energy"
                counting_start = {both: 1}
            expected = {both: 5 + counting_start[both]}
            if inner_steps > 1:
                expected[direct] = 5 * (inner_steps - 1)
            assert dict(counting.requested) == expected
            atoms.get_potential_energy(), atoms.get_forces(), dynamics.conserved_energy()
            assert dict(counting.requested) == expected


@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_a_plain_step_requests_its_forces_and_the_energy_once(server, forces):
    with CountingService(server.grpc_url) as counting:
        atoms = argon()
        with TwinForceCalculator(counting.url) as atoms.calc:
            MultipleTimeStepping(atoms, 2 * FS, forces=forces, ensemble=GLOBAL, seed=0).run(5)
            assert dict(counting.requested) == {" ".join(sorted((f"{forces}_forces", "energy"))): 6}


@pytest.mark.parametrize("name", ENSEMBLES)
def test_a_restart_continues_bit_for_bit(url, tmp_path, name):
    def run(*lengths):
        atoms, path = argon(), tmp_path / f"{len(lengths)}.npz"
        with TwinForceCalculator(url) as atoms.calc:
            for number, n_steps in enumerate(lengths):
                if number:
                    atoms.positions[:] = 0.0
                dynamics = MultipleTimeStepping(
                    atoms, 2 * FS, inner_steps=3, ensemble=ENSEMBLES[name], seed=number
                )
                if number:
                    dynamics.restore(path)
                dynamics.run(n_steps)
                dynamics.save(path)
            return (
                atoms.positions,
                atoms.get_momenta(),
                atoms.cell.array,
                dynamics.conserved_energy(),
                dynamics.disagreement.total_work,
                dynamics.get_time(),
            )

    for whole, halves in zip(run(12), run(5, 7), strict=True):
        np.testing.assert_array_equal(whole, halves)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"inner_steps": 5}, "inner-steps 5, got 3"),
        ({"timestep": FS}, "time-step"),
        ({"ensemble": GLOBAL}, "ensemble"),
        ({"forces": "conservative"}, "inner-steps 1|forces conservative"),
    ],
)
def test_a_restart_with_other_settings_is_refused(calculator, tmp_path, change, text):
    path = tmp_path / "run.npz"
    given = {"timestep": 2 * FS, "inner_steps": 3}
    MultipleTimeStepping(argon(calculator), **given).save(path)
    other = MultipleTimeStepping(argon(calculator), **given | change)
    with pytest.raises(ValueError, match=text):
        other.restore(path)


def test_a_restart_of_other_atoms_or_from_another_file_is_refused(calculator, tmp_path):
    path = tmp_path / "run.npz"
    MultipleTimeStepping(argon(calculator), FS).save(path)
    atoms = argon(calculator)
    atoms.numbers[0] = 10
    with pytest.raises(ValueError, match="other atoms"):
        MultipleTimeStepping(atoms, FS).restore(path)
    atoms = argon(calculator)
    atoms.set_masses([50.0] * 8)
    with pytest.raises(ValueError, match="other masses"):
        MultipleTimeStepping(atoms, FS).restore(path)
    path.write_text("not a restart")
    with pytest.raises(ValueError, match="expected a restart file"):
        MultipleTimeStepping(argon(calculator), FS).restore(path)


def test_atoms_that_an_observer_moves_are_evaluated_again(calculator):
    atoms = argon(calculator)
    dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=2)
    dynamics.run(2)
    atoms.rattle(0.05, seed=1)
    expected = atoms.copy()
    dynamics.run(2)
    expected.calc = calculator
    MultipleTimeStepping(expected, 2 * FS, inner_steps=2).run(2)
    np.testing.assert_allclose(atoms.positions, expected.positions, rtol=0, atol=1e-12)


def test_momenta_set_between_steps_are_used(calculator):
    atoms = argon(calculator)
    dynamics = MultipleTimeStepping(atoms, 2 * FS)
    dynamics.run(1)
    atoms.set_momenta(np.zeros((8, 3)))
    assert dynamics.kinetic_energy == 0.0
    assert dynamics.temperature_k == 0.0


# Monitoring


def test_the_disagreement_matches_the_predictions(calculator):
    atoms = argon(calculator)
    dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=4)
    dynamics.run(3)
    found = dynamics.disagreement
    difference = calculator.results["conservative_forces"] - calculator.results["direct_forces"]
    assert found.rmse == pytest.approx(np.sqrt((difference**2).mean()))
    for symbol, chosen in (("Ar", atoms.numbers == ARGON), ("Kr", atoms.numbers == KRYPTON)):
        expected = np.sqrt((difference[chosen] ** 2).mean())
        assert found.species_rmse[symbol] == pytest.approx(expected)
    before = found.total_work
    dynamics.run(1)
    found = dynamics.disagreement
    assert found.total_work == pytest.approx(before + found.work)
    assert found.work != 0.0


def test_a_disagreement_beyond_the_tested_range_warns_once():
    toy = lennard_jones()
    info = loaded(toy, "lj").info
    for largest, is_warned in ((1e-5, True), (10.0, False)):
        known = {"force_disagreement": {"Ar": {"mean": largest / 2, "max": largest}}}
        model = LoadedModel(dataclasses.replace(info, metadata=known), toy)
        atoms = argon()
        with (
            serve({"lj": model}) as server,
            TwinForceCalculator(server.grpc_url) as atoms.calc,
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            MultipleTimeStepping(atoms, 2 * FS).run(3)
        texts = [str(each.message) for each in caught]
        assert [each.category for each in caught] == [ForceDisagreementWarning] * is_warned
        assert all("Ar 0.00" in text and "Kr" not in text for text in texts)


def test_direct_forces_without_a_thermostat_warn(calculator):
    with pytest.warns(DirectForcesWarning, match="without a thermostat") as caught:
        MultipleTimeStepping(argon(calculator), FS, forces="direct")
    assert caught[0].filename == __file__
    MultipleTimeStepping(argon(calculator), FS, forces="direct", ensemble=GLOBAL)


# Constraints and invalid arguments


@pytest.mark.parametrize("name", ["nve", "svr", "local", "langevin"])
def test_fixed_atoms_do_not_move_and_have_no_degrees_of_freedom(calculator, name):
    atoms = argon(calculator)
    atoms.set_constraint(FixAtoms([0, 6]))
    start = atoms.positions.copy()
    dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=4, ensemble=ENSEMBLES[name], seed=0)
    energy = dynamics.conserved_energy()
    dynamics.run(20)
    np.testing.assert_array_equal(atoms.positions[[0, 6]], start[[0, 6]])
    np.testing.assert_array_equal(atoms.arrays["momenta"][[0, 6]], 0.0)
    assert np.abs(atoms.positions - start)[[1, 2, 3, 4, 5, 7]].max(axis=1).min() > 1e-3
    assert dynamics.conserved_energy() == pytest.approx(energy, abs=1e-4)
    twice = 2 * atoms.get_kinetic_energy()
    assert dynamics.temperature_k == pytest.approx(twice / (18 * units.kB), rel=1e-6)


def test_center_of_mass_motion_of_an_isolated_system_is_not_thermal(calculator):
    atoms = argon(calculator)
    dynamics = MultipleTimeStepping(atoms, 2 * FS)
    calm = dynamics.temperature_k
    assert calm == pytest.approx(2 * atoms.get_kinetic_energy() / (21 * units.kB), rel=1e-6)
    atoms.set_velocities(atoms.get_velocities() + 0.01)
    assert dynamics.temperature_k == pytest.approx(calm)
    assert dynamics.species_temperatures.keys() == {"Ar", "Kr"}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"inner_steps": 0}, ValueError, "inner_steps: expected a whole number"),
        ({"timestep": -1.0}, ValueError, "timestep: expected a positive number"),
        ({"forces": "fast"}, ValueError, "forces: expected 'hybrid'"),
    ],
)
def test_invalid_arguments_are_refused(calculator, change, error, text):
    with pytest.raises(error, match=text):
        MultipleTimeStepping(argon(calculator), **{"timestep": FS} | change)


def test_unsupported_constraints_are_refused(calculator):
    atoms = argon(calculator)
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ValueError, match="expected FixAtoms only, got FixBondLength"):
        MultipleTimeStepping(atoms, FS)
    atoms.set_constraint(FixAtoms(range(8)))
    with pytest.raises(ValueError, match="expected an atom that can move"):
        MultipleTimeStepping(atoms, FS)
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match="expected none at constant pressure"):
        MultipleTimeStepping(atoms, FS, ensemble=ENSEMBLES["isotropic"])


def test_constant_pressure_without_a_full_cell_is_refused(calculator):
    atoms = argon(calculator)
    atoms.pbc = [True, True, False]
    with pytest.raises(ValueError, match="periodic in all three directions at constant"):
        MultipleTimeStepping(atoms, FS, ensemble=ENSEMBLES["isotropic"])
    assert MultipleTimeStepping(atoms, FS).volume is None


def test_a_model_without_required_outputs_is_refused_before_the_first_step():
    class WithoutDirectStress(WithoutDirect):
        outputs = WithoutDirect.outputs | {"direct_forces", "conservative_stress"}

    models = {"none": loaded(WithoutDirect()), "some": loaded(WithoutDirectStress())}
    with serve(models) as server:
        atoms = argon(TwinForceCalculator(server.grpc_url, model="none"))
        with pytest.raises(UnsupportedOutputError, match="expected a model with direct_forces"):
            MultipleTimeStepping(atoms, FS)
        atoms = argon(TwinForceCalculator(server.grpc_url, model="some"))
        with pytest.raises(UnsupportedOutputError, match="expected a model with direct_stress"):
            MultipleTimeStepping(atoms, FS, ensemble=ENSEMBLES["isotropic"])


def test_atoms_without_a_calculator_are_refused():
    with pytest.raises(ValueError, match="expected a calculator, got none"):
        MultipleTimeStepping(argon(), FS)


def test_constant_pressure_dynamics_on_a_service_stay_near_the_set_point(calculator):
    """Check rough averages of a short run; `test_ensembles` checks the distributions."""
    atoms = argon(calculator)
    pressure = 0.002
    ensemble = NPT(
        thermostat=LANGEVIN,
        pressure_bar=pressure / BAR,
        relaxation_fs=100,
        compressibility_per_bar=50 * BAR,
    )
    dynamics = MultipleTimeStepping(atoms, 4 * FS, inner_steps=4, ensemble=ensemble, seed=3)
    temperatures, pressures = [], []
    for _ in dynamics.irun(400):
        stress = calculator.results["conservative_stress"]
        kinetic = 2 * dynamics.kinetic_energy / (3 * dynamics.volume)
        temperatures.append(dynamics.temperature_k)
        pressures.append(kinetic - np.trace(stress) / 3)
    assert np.mean(temperatures[100:]) == pytest.approx(60, rel=0.15)
    assert np.mean(pressures[100:]) == pytest.approx(pressure, rel=0.25)
