"""Tests of the results of the calculator with what ASE and its users do with results."""

import copy
import pickle

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import (
    PropertyNotImplementedError,
    all_properties,
)
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import LinearCombinationCalculator, SumCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import save_calc_results
from ase.outputs import all_outputs

from tests.clients.serving import ARGON, serve
from tests.systems import molecule
from twinforce import OUTPUTS
from twinforce.ase import MultipleTimeStepping, TwinForceCalculator

EXTRA = ("atom_energies", "direct_stress", "direct_forces")


@pytest.fixture(scope="module")
def server():
    with serve() as server:
        yield server


@pytest.fixture
def calculator(server):
    with TwinForceCalculator(server.grpc_url, both_forces=True, extra_outputs=EXTRA) as calculator:
        yield calculator


@pytest.fixture
def atoms(calculator):
    cell = [[7.6, 0, 0], [1.5, 7.6, 0], [0.3, -0.8, 7.6]]
    atoms = Atoms([ARGON] * 8, molecule(8).positions, cell=cell, pbc=True, calculator=calculator)
    atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energies()
    return atoms


def is_right(copied, atoms):
    assert copied.get_potential_energy() == pytest.approx(atoms.get_potential_energy())
    np.testing.assert_allclose(copied.get_forces(), atoms.get_forces(), atol=1e-7)
    np.testing.assert_allclose(copied.get_stress(), atoms.get_stress(), atol=1e-7)
    return True


@pytest.mark.usefixtures("atoms")
def test_results_hold_names_of_ase_only(calculator):
    names = {"energy", "free_energy", "energies", "forces", "stress"}
    assert set(calculator.results) == names <= set(all_properties) <= set(all_outputs)
    assert dict(calculator.results).keys() == dict(**calculator.results).keys() == names
    results = calculator.results
    assert type(results["energy"]) is float
    assert results["forces"].shape == (8, 3)
    assert results["stress"].shape == (6,)
    assert results["energies"].shape == (8,)
    assert all(np.asarray(value).dtype == np.float64 for value in results.values())


def test_a_single_point_calculator_takes_all_results(atoms, calculator):
    copied = atoms.copy()
    copied.calc = SinglePointCalculator(copied, **calculator.results)
    assert is_right(copied, atoms)
    assert copied.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy())


def test_results_are_exported_as_properties(atoms, calculator):
    properties = calculator.export_properties()
    np.testing.assert_array_equal(properties["forces"], atoms.get_forces())
    assert properties["natoms"] == 8
    assert set(calculator.calculate_properties(atoms, ["energy", "stress"])) >= {"energy", "stress"}


@pytest.mark.parametrize("name", ["all.extxyz", "all.xyz", "all.traj", "all.json", "all.db"])
def test_every_format_of_ase_stores_the_results(atoms, tmp_path, name):
    path = tmp_path / name
    ase.io.write(path, atoms)
    read = ase.io.read(path)
    assert is_right(read, atoms)
    assert not set(read.arrays) & set(OUTPUTS)


def test_results_are_saved_into_the_info_and_arrays_of_atoms(atoms):
    save_calc_results(atoms, calc_prefix="REF_")
    assert {"REF_energy", "REF_free_energy", "REF_stress"} <= set(atoms.info)
    np.testing.assert_array_equal(atoms.arrays["REF_forces"], atoms.get_forces())
    assert not [name for name in [*atoms.info, *atoms.arrays] if "direct" in name]


def test_a_database_row_has_the_results(atoms, calculator, tmp_path):
    with ase.db.connect(tmp_path / "all.db") as database:
        row = database.get(database.write(atoms, data={"all": calculator.prediction.direct_forces}))
    assert row.energy == atoms.get_potential_energy()
    np.testing.assert_allclose(row.forces, atoms.get_forces())
    assert row.calculator == "twinforce"
    assert is_right(row.toatoms(), atoms)


def test_our_own_quantities_have_a_home(atoms, calculator):
    prediction = calculator.prediction
    for name in OUTPUTS:
        value = getattr(prediction, name)
        assert value is not None, name
        np.testing.assert_array_equal(calculator.get_property(name, atoms), value)
        np.testing.assert_array_equal(calculator.get_property(name), value)
        np.testing.assert_array_equal(calculator.results[name], value)
    assert prediction.provenance.model == "lj"
    calculator.get_property("direct_forces", atoms)[:] = 0.0
    assert calculator.get_property("direct_forces", atoms).any()


def test_our_own_quantities_are_computed_if_they_are_missing(server, atoms):
    with TwinForceCalculator(server.grpc_url) as calculator:
        again = atoms.copy()
        again.calc = calculator
        assert calculator.get_property("direct_forces", again, allow_calculation=False) is None
        found = calculator.get_property("direct_forces", again)
        np.testing.assert_allclose(found, atoms.calc.prediction.direct_forces)
        assert "forces" not in calculator.results
        again.rattle(0.01)
        assert calculator.get_property("direct_forces", again, allow_calculation=False) is None
        assert np.abs(calculator.get_property("direct_forces", again) - found).max() > 1e-6
        assert calculator.get_property("atom_energies", again).sum() == pytest.approx(
            again.get_potential_energy()
        )
        with pytest.raises(PropertyNotImplementedError):
            calculator.get_property("dipole", again)
        with pytest.raises(KeyError):
            calculator.results["conservative_stress"]
        with pytest.raises(KeyError):
            calculator.results["dipole"]


def test_known_results_are_returned_without_calculation(atoms, calculator):
    prediction = calculator.prediction
    for name in ("energy", "free_energy", "energies", "forces", "stress"):
        assert calculator.get_property(name, atoms, allow_calculation=False) is not None
        assert calculator.get_property(name, allow_calculation=False) is not None
    moved = atoms.copy()
    moved.rattle(0.01)
    assert prediction is calculator.prediction
    assert calculator.get_property("forces", moved, allow_calculation=False) is None
    assert calculator.prediction is None  # as ASE has it: the results of other atoms are dropped


def test_a_calculator_without_atoms_says_so(server):
    with (
        TwinForceCalculator(server.grpc_url) as calculator,
        pytest.raises(ValueError, match="expected atoms to calculate properties of, got none"),
    ):
        calculator.get_property("energy")


def test_calculators_are_mixed(server, atoms):
    url = server.grpc_url
    with TwinForceCalculator(url) as first, TwinForceCalculator(url, force_kind="direct") as second:
        mixed = atoms.copy()
        mixed.calc = LinearCombinationCalculator([first, second], [0.25, 0.75])
        prediction = atoms.calc.prediction
        expected = 0.25 * prediction.conservative_forces + 0.75 * prediction.direct_forces
        np.testing.assert_allclose(mixed.get_forces(), expected, atol=1e-12)
        expected = 0.25 * prediction.conservative_stress + 0.75 * prediction.direct_stress
        np.testing.assert_allclose(mixed.get_stress(voigt=False), expected, atol=1e-12)
        other = LennardJones(sigma=3.0, epsilon=0.01, rc=6.0)
        both, alone = atoms.copy(), atoms.copy()
        both.calc, alone.calc = SumCalculator([first, other]), other
        expected = prediction.conservative_forces + alone.get_forces()
        np.testing.assert_allclose(both.get_forces(), expected, atol=1e-12)


@pytest.mark.usefixtures("atoms")
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))]
)
def test_results_can_be_copied(calculator, duplicate):
    again = duplicate(calculator.results)
    assert again.keys() == calculator.results.keys()
    np.testing.assert_array_equal(again["direct_forces"], calculator.prediction.direct_forces)


def test_results_after_dynamics_are_for_ase_too(atoms, calculator, tmp_path):
    dynamics = MultipleTimeStepping(atoms, 0.1, inner_steps=2)
    dynamics.run(2)
    assert set(calculator.results) == {"energy", "free_energy", "forces"}
    assert calculator.prediction.direct_forces.shape == (8, 3)
    list(dynamics.irun_on_server(2))
    assert set(calculator.results) == {"energy", "free_energy", "forces"}
    assert calculator.prediction.provenance.model == "lj"
    copied = atoms.copy()
    copied.calc = SinglePointCalculator(copied, **calculator.results)
    ase.io.write(tmp_path / "end.extxyz", copied)
    np.testing.assert_allclose(
        ase.io.read(tmp_path / "end.extxyz").get_forces(), atoms.get_forces(), atol=1e-7
    )
