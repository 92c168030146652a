"""Tests of `twinforce relax`."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms

from tests.clients.serving import ARGON, serve
from tests.potentials import WithoutDirect, loaded
from tests.systems import molecule
from twinforce import Client
from twinforce.cli import run


@pytest.fixture(autouse=True)
def address(url, monkeypatch):
    monkeypatch.setenv("TWINFORCE_URL", url)
    return url


@pytest.fixture
def atoms():
    return Atoms([ARGON] * 8, molecule(8, seed=3).positions, momenta=np.ones((8, 3)))


@pytest.fixture
def file(atoms, tmp_path):
    ase.io.write(tmp_path / "start.extxyz", atoms)
    return tmp_path / "start.extxyz"


@pytest.mark.parametrize("name", ["relaxed.xyz", "relaxed.traj", "relaxed.json", "POSCAR"])
def test_a_system_is_relaxed_into_a_file_of_the_format_of_its_name(address, file, tmp_path, name):
    atoms = ase.io.read(file)
    atoms.set_cell([20.0] * 3)
    ase.io.write(file, atoms)
    output = tmp_path / name
    assert run(["relax", str(file), "--fmax=0.01", "-o", str(output), "-q"]) == 0
    relaxed = ase.io.read(output)
    with Client(address) as client:
        prediction = client.predict(relaxed, ["conservative_forces", "energy"])
    assert np.linalg.norm(prediction.conservative_forces, axis=1).max() < 0.011
    if name != "POSCAR":
        assert relaxed.get_potential_energy() == pytest.approx(prediction.energy, abs=1e-5)
    assert not relaxed.get_momenta().any()


def test_the_states_on_the_way_are_written(file, tmp_path):
    trajectory = tmp_path / "way.traj"
    given = ["--interval=2", "--fmax=0.01", f"--trajectory={trajectory}", "-q"]
    assert run(["relax", str(file), *given, f"--output={tmp_path / 'end.xyz'}"]) == 0
    states, end = ase.io.read(trajectory, ":"), ase.io.read(tmp_path / "end.xyz")
    assert len(states) > 2
    energies = [state.get_potential_energy() for state in states]
    assert energies[-1] == min(energies)
    np.testing.assert_allclose(states[-1].positions, end.positions, atol=1e-7)


def test_atoms_that_are_fixed_do_not_move(atoms, tmp_path):
    start, output = tmp_path / "start.traj", tmp_path / "end.traj"
    atoms.set_constraint(FixAtoms([0, 5]))
    ase.io.write(start, atoms)
    assert run(["relax", str(start), "--fmax=1e-3", "-o", str(output)]) == 0
    moved = np.abs(ase.io.read(output).positions - atoms.positions).max(axis=1)
    assert (moved[[0, 5]] == 0.0).all()
    assert moved.max() > 0.0


def test_a_relaxation_that_does_not_converge_has_an_exit_status_of_its_own(file, capsys):
    assert run(["relax", str(file), "--fmax=1e-9", "--max-steps=2"]) == 3
    written, said = capsys.readouterr()
    assert written.splitlines()[0] == "8"
    assert said.startswith("not converged after 2 steps: energy ")
    assert "which is more than 1e-09" in said


def test_a_model_with_one_kind_of_forces_is_followed_by_that_kind(file, capsys, monkeypatch):
    with serve({"only": loaded(WithoutDirect())}) as server:
        monkeypatch.setenv("TWINFORCE_URL", server.grpc_url)
        assert run(["relax", str(file), "--max-steps=1", "--fmax=1e-9"]) == 3
    assert "largest conservative force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--output=relaxed.foo"], "relaxed.foo: expected the name of a file that ASE writes"),
        (["--trajectory=way.foo"], "way.foo: expected the name of a file that ASE writes"),
        (["--output=/nowhere/at/all.xyz"], "No such file or directory"),
        (["--index=3"], "holds no atoms at '3'"),
        (["--output=relaxed.db"], "relaxed.db: cannot be written as db"),
        (["--output=POSCAR"], "POSCAR: cannot be written as vasp"),
        (["--trajectory=way.gen"], "way.gen: cannot be written as gen"),
    ],
)
def test_wrong_files_are_refused_before_anything_is_computed(file, capsys, arguments, text):
    assert run(["relax", str(file), *arguments]) == 2
    assert text in capsys.readouterr().err
