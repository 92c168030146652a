"""Masses that users set: alike on the client, on the server, in files and on the command line."""

import ase.io
import numpy as np
import pytest
from ase import units

from tests.dynamics.test_ase_dynamics import argon
from twinforce import Integrator, InvalidRequestError, Start
from twinforce.ase import SVR, Langevin, MultipleTimeStepping, TwinForceCalculator, system_of
from twinforce.cli import run
from twinforce.md import draw_velocities
from twinforce.restart import Restart

FS = units.fs
ISOTOPES = [36.0, 38.0, 39.962, 40.0, 39.948, 78.0, 84.0, 86.0]
WRONG = {"zero": 0.0, "negative": -1.0, "nan": np.nan, "infinite": np.inf}


@pytest.fixture
def calculator(url):
    with TwinForceCalculator(url) as calculator:
        yield calculator


def with_masses(masses, calculator=None):
    atoms = argon(calculator)
    atoms.set_masses(masses)
    return atoms


@pytest.mark.parametrize("thermostat", [SVR, Langevin])
def test_isotopes_move_alike_on_both_sides_and_after_a_restart(calculator, tmp_path, thermostat):
    ends = []
    ensemble = thermostat(temperature_k=60, relaxation_fs=50)
    for is_there in (False, True):
        atoms = with_masses(ISOTOPES, calculator)
        dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=2, ensemble=ensemble, seed=2)
        path = tmp_path / f"{is_there}.npz"
        for part in range(2):
            if part:
                atoms = with_masses(ISOTOPES, calculator)
                dynamics = MultipleTimeStepping(
                    atoms, 2 * FS, inner_steps=2, ensemble=ensemble, seed=9
                )
                dynamics.restore(path)
            list(dynamics.irun_on_server(4) if is_there else dynamics.irun(4))
            dynamics.save(path)
        np.testing.assert_array_equal(Restart.load(path).masses, ISOTOPES)
        ends.append((atoms.positions, dynamics.conserved_energy(), dynamics.species_temperatures))
    (here, energy, temperatures), (there, energy_there, temperatures_there) = ends
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-10)
    assert energy_there == pytest.approx(energy, abs=1e-10)
    assert temperatures_there == pytest.approx(temperatures)
    usual = argon(calculator)
    MultipleTimeStepping(usual, 2 * FS, inner_steps=2, ensemble=ensemble, seed=2).run(8)
    assert np.abs(usual.positions - here).max() > 1e-4


@pytest.mark.parametrize("mass", WRONG.values(), ids=WRONG)
def test_masses_that_move_nothing_are_refused_alike(calculator, mass):
    atoms = argon(calculator)
    velocities = atoms.get_velocities()
    masses = atoms.get_masses()
    masses[3] = mass
    atoms.set_masses(masses)
    text = rf"masses: expected positive numbers, got {mass} of atom 3 \(Ar\)"
    with pytest.raises(ValueError, match=text):
        MultipleTimeStepping(atoms, FS)
    with pytest.raises(ValueError, match=text):
        draw_velocities(atoms, 300, np.random.default_rng(0))
    with pytest.raises(InvalidRequestError, match=rf"masses: expected positive .* {mass} at \[3\]"):
        Start(system_of(atoms), velocities, Integrator(), masses=masses)


@pytest.mark.parametrize("there", [[], ["--on-server"]])
@pytest.mark.parametrize("mass", [0.0, np.nan])
def test_the_command_line_refuses_masses_that_move_nothing(url, tmp_path, capsys, there, mass):
    atoms = argon()
    masses = atoms.get_masses()
    masses[3] = mass
    atoms.set_masses(masses)
    path = tmp_path / "start.traj"
    ase.io.write(path, atoms)
    assert run(["md", str(path), f"--url={url}", *there]) == 2
    assert f"got {mass} of atom 3 (Ar)" in capsys.readouterr().err


@pytest.mark.parametrize("there", [[], ["--on-server"]])
def test_the_command_line_refuses_dummy_atoms(url, tmp_path, capsys, there):
    atoms = argon()
    atoms.symbols[2] = "X"
    path = tmp_path / "start.traj"
    ase.io.write(path, atoms)
    assert run(["md", str(path), f"--url={url}", *there]) == 1
    assert "atomic_numbers: expected whole numbers from 1 to 118, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["start.traj", "start.extxyz"])
def test_masses_of_a_file_reach_the_restart_file(url, tmp_path, name):
    atoms = with_masses(ISOTOPES)
    ase.io.write(tmp_path / name, atoms)
    kept = []
    for there in ([], ["--on-server"]):
        restart = tmp_path / f"{len(there)}.npz"
        arguments = ["md", str(tmp_path / name), f"--url={url}", "--steps=4", "--interval=2"]
        assert run([*arguments, f"--restart={restart}", *there]) == 0
        kept.append(Restart.load(restart))
    for restart in kept:
        np.testing.assert_allclose(restart.masses, ISOTOPES)
    np.testing.assert_allclose(kept[0].state.positions, kept[1].state.positions, atol=1e-10)


def test_masses_stay_with_the_sites_that_they_were_set_for(calculator):
    """As in ASE: set masses do not follow a swap of elements, default ones do."""
    atoms = with_masses(ISOTOPES, calculator)
    dynamics = MultipleTimeStepping(atoms, FS, inner_steps=2)
    atoms.numbers[[0, 7]] = atoms.numbers[[7, 0]]
    dynamics.run(1)
    np.testing.assert_array_equal(dynamics.masses[:, 0], ISOTOPES)
    atoms.set_masses("defaults")
    dynamics.run(1)
    np.testing.assert_array_equal(dynamics.masses[:, 0], atoms.get_masses())
    assert dynamics.masses[0, 0] == pytest.approx(83.798)
