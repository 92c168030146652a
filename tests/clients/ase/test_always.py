"""Tests of properties that come along with what ASE asks for."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from tests.clients.serving import ARGON, serve
from tests.potentials import Soft, WithoutDirect, loaded
from tests.systems import molecule
from twinforce.ase import TwinForceCalculator


@pytest.fixture(scope="module")
def server():
    with serve() as server:
        yield server


def argon(calculator, pbc=True):
    cell = 9.0 * np.eye(3) if pbc else None
    return Atoms([ARGON] * 8, molecule(8).positions, cell=cell, pbc=pbc, calculator=calculator)


def test_the_energy_brings_what_is_always_wanted(server, tmp_path):
    with TwinForceCalculator(server.grpc_url, always=("forces", "stress")) as calculator:
        atoms = argon(calculator)
        atoms.get_potential_energy()
        assert set(calculator.results) == {"energy", "free_energy", "forces", "stress"}
        ase.io.write(tmp_path / "all.traj", atoms)
        again = ase.io.read(tmp_path / "all.traj")
        np.testing.assert_array_equal(again.get_forces(), atoms.get_forces())
        calculator.set(always=())
        atoms.get_potential_energy()
        assert set(calculator.results) == {"energy", "free_energy"}


def test_what_does_not_exist_is_left_out(server):
    with TwinForceCalculator(server.grpc_url, always=("forces", "stress")) as calculator:
        argon(calculator, pbc=False).get_potential_energy()
        assert set(calculator.results) == {"energy", "free_energy", "forces"}


class WithoutStress(Soft):
    """A potential that has forces, but neither stresses nor energies of atoms."""

    outputs = frozenset({"energy", "conservative_forces"})


class WithoutEnergies(Soft):
    """A potential without energies of atoms."""

    outputs = frozenset({"energy", "conservative_forces", "conservative_stress"})


def test_what_a_model_lacks_costs_neither_the_rest_nor_a_second_evaluation():
    potential = WithoutStress()
    with (
        serve({"plain": loaded(potential)}, engine="thread") as server,
        TwinForceCalculator(server.grpc_url, always=("forces", "stress")) as calculator,
    ):
        atoms = argon(calculator)
        atoms.get_potential_energy()
        n_before = len(potential.batches)
        for _ in range(3):
            atoms.positions += 0.01
            atoms.get_potential_energy()
            assert set(calculator.results) == {"energy", "free_energy", "forces"}
        assert len(potential.batches) == n_before + 3
        with pytest.raises(PropertyNotImplementedError, match="conservative_stress"):
            atoms.get_stress()


def test_what_is_requested_is_computed_if_what_is_always_wanted_does_not_exist():
    with (
        serve({"plain": loaded(WithoutEnergies())}) as server,
        TwinForceCalculator(server.grpc_url, always=("energies",)) as calculator,
    ):
        assert argon(calculator).get_stress().shape == (6,)


def test_direct_forces_come_with_the_energy(server):
    with TwinForceCalculator(server.grpc_url, force_kind="direct") as calculator:
        atoms = argon(calculator)
        atoms.get_potential_energy()
        assert "forces" in calculator.results
        timings = calculator.prediction.timings
        atoms.get_forces()
        assert calculator.prediction.timings is timings


def test_the_energy_is_computed_alone_where_a_model_has_no_direct_forces():
    with (
        serve({"plain": loaded(WithoutDirect())}) as server,
        TwinForceCalculator(server.grpc_url, force_kind="direct") as calculator,
    ):
        argon(calculator).get_potential_energy()
        assert set(calculator.results) == {"energy", "free_energy"}


def test_unknown_properties_and_places_are_refused():
    with pytest.raises(PropertyNotImplementedError, match=r"always: expected some of .* 'dipole'"):
        TwinForceCalculator("grpc://127.0.0.1:1", always=("forces", "dipole"))
    with pytest.raises(ValueError, match="per_atom: expected 'arrays' or 'info', got 'disk'"):
        TwinForceCalculator("grpc://127.0.0.1:1", autosave="disk")
