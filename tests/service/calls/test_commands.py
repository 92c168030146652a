"""Tests of `twinforce md --on-server`, which writes the same files as without the option."""

import csv

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from tests.dynamics.counting import CountingService
from tests.service.calls.conftest import CELL, argon
from twinforce.ase import SVR, MultipleTimeStepping, TwinForceCalculator
from twinforce.cli import run

ENSEMBLES = ["nve", "svr", "langevin", "npt-isotropic"]


def atoms():
    system = argon()
    return Atoms(numbers=system.atomic_numbers, positions=system.positions, cell=CELL, pbc=True)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "start.xyz"
    ase.io.write(path, atoms())
    return path


def written(url, file, folder, *options, steps=(24,), forces="hybrid", ensemble="svr"):
    """Run the command once for each number of steps; return its log and its trajectory."""
    folder.mkdir()
    log, trajectory, restart = (folder / name for name in ("log.csv", "run.traj", "run.npz"))
    for n_steps in steps:
        given = [f"--log={log}", f"--trajectory={trajectory}", f"--restart={restart}"]
        moving = [f"--forces={forces}", f"--ensemble={ensemble}", "--inner-steps=4"]
        times = [f"--steps={n_steps}", "--interval=2", "--temperature=50", "--relaxation=50"]
        arguments = ["md", str(file), f"--url={url}", *given, *moving, *times]
        assert run([*arguments, *(options[0] if options else ())]) == 0
        options = options[1:]
    rows = list(csv.DictReader(log.read_text().splitlines()))
    return rows, ase.io.read(trajectory, ":")


def assert_same(one, other):
    (rows, images), (other_rows, other_images) = one, other
    assert [row["step"] for row in rows] == [row["step"] for row in other_rows]
    for row, other_row in zip(rows, other_rows, strict=True):
        assert row.keys() == other_row.keys()
        for name, value in row.items():
            assert float(value) == pytest.approx(float(other_row[name]), abs=1e-8), name
    for image, other_image in zip(images, other_images, strict=True):
        np.testing.assert_allclose(image.positions, other_image.positions, atol=1e-8)
        np.testing.assert_allclose(image.get_momenta(), other_image.get_momenta(), atol=1e-8)
        np.testing.assert_allclose(image.get_forces(), other_image.get_forces(), atol=1e-8)
        assert image.info.keys() == other_image.info.keys()


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_log_and_trajectory_equal_those_of_a_run_on_the_client(server, file, tmp_path, ensemble):
    url = server.grpc_url
    here = written(url, file, tmp_path / "here", ensemble=ensemble)
    there = written(url, file, tmp_path / "there", ["--on-server"], ensemble=ensemble)
    assert len(here[0]) == 4
    assert_same(there, here)


@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_one_kind_of_forces_also_runs_on_the_server(server, file, tmp_path, forces):
    here = written(server.rest_url, file, tmp_path / "here", forces=forces)
    there = written(server.rest_url, file, tmp_path / "there", ["--on-server"], forces=forces)
    assert len(here[0]) == 13
    assert_same(there, here)


def test_a_run_can_alternate_between_server_and_client(server, file, tmp_path):
    """Each resumes from the restart file of the other."""
    url = server.grpc_url
    whole = written(url, file, tmp_path / "whole", steps=(32,))
    options = ["--on-server"], [], ["--on-server"]
    parts = written(url, file, tmp_path / "parts", *options, steps=(8, 24, 32))
    assert_same(parts, whole)


def test_the_server_is_called_once_per_run(server, file, tmp_path):
    with CountingService(server.grpc_url) as counting:
        written(counting.url, file, tmp_path / "there", ["--on-server"])
        assert counting.requested == {"propagate": 1}


def test_fixed_atoms_and_masses_are_sent_to_the_server(server):
    ends = []
    for is_there in (False, True):
        moving = atoms()
        moving.set_velocities(np.random.default_rng(0).normal(scale=0.01, size=(8, 3)))
        moving.set_masses([20.0] * 8)
        moving.set_constraint(FixAtoms([0, 5]))
        with TwinForceCalculator(server.grpc_url) as moving.calc:
            ensemble = SVR(temperature_k=60, relaxation_fs=50)
            dynamics = MultipleTimeStepping(
                moving, units.fs, inner_steps=2, ensemble=ensemble, seed=1
            )
            if is_there:
                assert [*dynamics.irun_on_server(5, interval=3)] == [False, False, True]
            else:
                dynamics.run(5)
            ends.append(
                (moving.positions, dynamics.conserved_energy(), dynamics.get_number_of_steps())
            )
    (here, energy, n_here), (there, energy_there, n_there) = ends
    np.testing.assert_allclose(there, here, atol=1e-9)
    np.testing.assert_array_equal(there[[0, 5]], argon().positions[[0, 5]])
    assert energy_there == pytest.approx(energy, abs=1e-9)
    assert n_here == n_there == 5


def test_a_calculator_without_a_service_is_refused():
    copper = Atoms("Cu4", positions=2.6 * np.eye(4, 3), calculator=EMT())
    dynamics = MultipleTimeStepping(copper, units.fs, forces="conservative")
    with pytest.raises(ValueError, match="expected TwinForceCalculator, got EMT"):
        next(dynamics.irun_on_server(1))
