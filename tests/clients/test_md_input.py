"""Tests that `twinforce md` drops nothing that its file says, and writes over nothing."""

import os

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.constraints import FixAtoms

from tests.clients.serving import ARGON
from tests.systems import molecule
from twinforce.ase import repartition_hydrogen_mass
from twinforce.cli import run
from twinforce.md import plot_runs

N_ATOMS = 5
UNITS = {
    "A/fs": 1 / units.fs,
    "A/ps": 1e-3 / units.fs,
    "nm/ps": 1e-2 / units.fs,
    "ase": 1.0,
    "bohr/au": units.Bohr / (2.4188843265864e-17 * units.s),
}


@pytest.fixture(autouse=True)
def address(server, monkeypatch):
    monkeypatch.setenv("TWINFORCE_URL", server.grpc_url)


@pytest.fixture
def velocities():
    return np.random.default_rng(0).normal(scale=0.03, size=(N_ATOMS, 3))


def written(path, momenta=None, **columns):
    """Write a system with these columns and return the path."""
    atoms = Atoms([ARGON] * N_ATOMS, molecule(N_ATOMS).positions, momenta=momenta)
    for name, column in columns.items():
        atoms.set_array(name, np.asarray(column))
    ase.io.write(path, atoms, format="extxyz")
    return path


def first_frame(start, tmp_path, *options):
    trajectory = tmp_path / "first.traj"
    arguments = ["md", str(start), "--steps=1", "--ensemble=nve", f"--trajectory={trajectory}"]
    assert run([*arguments, *options]) == 0
    return ase.io.read(trajectory, 0)


def refusal(capsys, *arguments):
    capsys.readouterr()
    assert run(["md", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("name", ["vel", "velo", "Vel"])
def test_the_columns_of_known_programs_are_read_in_their_unit(velocities, tmp_path, capsys, name):
    start = written(tmp_path / "start.xyz", **{name: velocities / UNITS["A/fs"]})
    frame = first_frame(start, tmp_path)
    np.testing.assert_allclose(frame.get_velocities(), velocities, rtol=1e-4, atol=1e-6)
    assert name not in frame.arrays
    err = capsys.readouterr().err
    assert f"velocities: column {name}, taken as Å/fs, as " in err
    moving = velocities - velocities.mean(axis=0)  # with respect to the center of mass
    kelvin = 39.948 * (moving**2).sum() / (3 * (N_ATOMS - 1) * units.kB)
    assert f"start at {kelvin:.0f} K" in err


@pytest.mark.parametrize("name", ["velocities", "velocity", "Velocity", "vels"])
def test_an_ambiguous_column_needs_a_unit(velocities, tmp_path, capsys, name):
    for unit, factor in UNITS.items():
        start = written(tmp_path / "start.xyz", **{name: velocities / factor})
        assert "--velocity-units" in (line := refusal(capsys, start))
        assert f"column {name}: " in line
        frame = first_frame(start, tmp_path, f"--velocity-units={unit}")
        np.testing.assert_allclose(frame.get_velocities(), velocities, rtol=1e-3, atol=2e-6)


def test_three_columns_with_components_are_velocities(velocities, tmp_path, capsys):
    columns = dict(zip(("vx", "vy", "vz"), (velocities / UNITS["A/ps"]).T, strict=True))
    start = written(tmp_path / "start.xyz", **columns)
    assert "column vx, vy, vz: expected" in refusal(capsys, start)
    frame = first_frame(start, tmp_path, "--velocity-units=A/ps")
    np.testing.assert_allclose(frame.get_velocities(), velocities, rtol=1e-4, atol=1e-6)
    assert not {"vx", "vy", "vz"} & set(frame.arrays)


def test_momenta_of_ase_win_and_must_agree_with_other_columns(velocities, tmp_path, capsys):
    momenta = 39.948 * velocities
    for name, column in (("vel", velocities / UNITS["A/fs"]), ("velocities", velocities)):
        start = written(tmp_path / "start.xyz", momenta, **{name: column})
        frame = first_frame(start, tmp_path)
        np.testing.assert_allclose(frame.get_momenta(), momenta, rtol=1e-4, atol=1e-6)
        assert name not in frame.arrays
        assert "velocities: momenta of the file" in capsys.readouterr().err
        start = written(tmp_path / "start.xyz", momenta, **{name: 1.1 * column})
        assert f"column {name}: expected the same" in refusal(capsys, start)
    start = written(tmp_path / "start.xyz", vel=velocities, velo=-velocities)
    assert "expected the same" in refusal(capsys, start, "--velocity-units=ase")


def test_momenta_under_another_name_are_not_guessed(velocities, tmp_path, capsys):
    momenta = 39.948 * velocities
    start = written(tmp_path / "start.xyz", momentum=momenta)
    assert "column momentum: expected velocities in a known unit" in refusal(capsys, start)
    assert "column momentum" in refusal(capsys, start, "--velocity-units=ase")
    first_frame(written(tmp_path / "start.xyz", momenta, momentum=momenta), tmp_path)


def test_a_unit_without_a_column_is_refused(velocities, tmp_path, capsys):
    start = written(tmp_path / "start.xyz")
    assert "--velocity-units: expected a column of velocities, got none" in (
        refusal(capsys, start, "--velocity-units=A/fs")
    )
    start = written(tmp_path / "start.xyz", 39.948 * velocities)
    assert "got momenta, which are in ASE's unit" in refusal(capsys, start, "--velocity-units=A/fs")


def test_a_unit_that_would_burn_the_system_is_asked_for(velocities, tmp_path, capsys):
    start = written(tmp_path / "start.xyz", vel=velocities / UNITS["A/ps"])
    assert " K; give the unit" in refusal(capsys, start)
    first_frame(start, tmp_path, "--velocity-units=A/ps")


@pytest.mark.parametrize("column", [np.ones(N_ATOMS), np.full((N_ATOMS, 3), np.nan)])
def test_a_malformed_column_is_refused(tmp_path, capsys, column):
    start = written(tmp_path / "start.xyz", vel=column)
    assert "column vel: expected three finite numbers" in refusal(capsys, start)


@pytest.mark.parametrize("name", ["velocities", "velocity", "vel", "velo", "v"])
@pytest.mark.parametrize("shape", [(N_ATOMS,), (N_ATOMS, 2), (N_ATOMS, 6)])
def test_velocities_of_another_shape_are_not_dropped(tmp_path, capsys, name, shape):
    start = written(tmp_path / "start.xyz", **{name: np.ones(shape)})
    assert f"column {name}: expected three finite numbers" in refusal(capsys, start)


@pytest.mark.parametrize("option", ["--ensemble=nve", "--ensemble=svr", "--on-server"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_momenta_that_are_not_finite_are_refused_and_leave_no_files(
    velocities, tmp_path, capsys, value, option
):
    velocities[3, 1] = value
    start = written(tmp_path / "start.xyz", momenta=velocities)
    log = tmp_path / "run.csv"
    line = refusal(capsys, start, f"--log={log}", option)
    assert "momenta: expected finite numbers, got [" in line
    assert "of atom 3 (Ar)" in line
    assert not log.exists()


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst", ".zip"])
@pytest.mark.parametrize("option", ["--log", "--restart", "--trajectory"])
def test_names_of_compressed_files_are_refused(tmp_path, capsys, option, suffix):
    start = written(tmp_path / "start.xyz")
    path = tmp_path / f"run.csv{suffix}"
    assert f"expected a name without {suffix}" in refusal(capsys, start, f"{option}={path}")
    assert not path.exists()


def test_velocities_for_other_masses_than_those_asked_for_are_reported(tmp_path, capsys):
    hydroxyl = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], momenta=[[0, 0, 1.0], [0, 0, -1.0]])
    said = "masses: changed by --hydrogen-mass, which changes the temperature"
    for options, is_said in (([], False), (["--hydrogen-mass=3"], True)):
        ase.io.write(start := tmp_path / "start.xyz", hydroxyl, format="extxyz")
        run(["md", str(start), "--steps=1", *options])
        assert (said in capsys.readouterr().err) == is_said
    repartition_hydrogen_mass(hydroxyl, 3.0)
    ase.io.write(start, hydroxyl, format="extxyz")
    run(["md", str(start), "--steps=1", "--hydrogen-mass=3"])
    assert said not in capsys.readouterr().err


def test_a_plot_begins_with_the_first_state_and_ends_with_the_last(tmp_path, monkeypatch):
    """A run that continues between two intervals, and ends before the next one, has a plot, too."""
    plots = []

    def plot(runs, n_atoms, path):
        plots.append([state.step for state in runs["run"]])
        plot_runs(runs, n_atoms, path)

    monkeypatch.setattr("twinforce.cli.simulation.plot_runs", plot)
    start, image = written(tmp_path / "start.xyz"), tmp_path / "run.png"
    command = ["md", str(start), f"--plot={image}", f"--restart={tmp_path / 'run.npz'}"]
    for n_steps in (7, 9, 14):
        image.unlink(missing_ok=True)
        assert run([*command, "--interval=5", f"--steps={n_steps}"]) == 0
        assert image.stat().st_size > 0
    assert plots == [[0, 5, 7], [7, 9], [9, 10, 14]]


def test_one_atom_is_one_atom(tmp_path, capsys):
    ase.io.write(start := tmp_path / "start.xyz", Atoms("Ar"), format="extxyz")
    assert run(["md", str(start), "--steps=1"]) == 0
    err = capsys.readouterr().err
    assert "start.xyz: 1 atom\n" in err
    assert "1 step, 0.0005 ps" in err


def test_new_velocities_replace_those_of_the_file(velocities, tmp_path, capsys):
    for name in ("vel", "velocities", "momentum"):
        start = written(tmp_path / "start.xyz", **{name: velocities})
        frame = first_frame(start, tmp_path, "--new-velocities", "--temperature=30")
        assert name not in frame.arrays
        err = capsys.readouterr().err
        assert "drawn at 30 K; those of the file are not used" in err
    first_frame(written(tmp_path / "start.xyz"), tmp_path)
    assert "drawn at 300 K, none were read from the file" in capsys.readouterr().err


def test_masses_and_constraints_of_the_file_are_used(velocities, tmp_path, capsys):
    start = written(tmp_path / "start.xyz", mass=np.full(N_ATOMS, 20.0), vel=velocities / 100)
    frame = first_frame(start, tmp_path)
    assert frame.get_masses() == pytest.approx(20.0)
    assert "masses of the column mass, taken as amu" in capsys.readouterr().err
    start = written(tmp_path / "start.xyz", mass=np.full(N_ATOMS, 39.948 * 103.6))
    assert "column mass: expected masses in amu, got 4138.61" in refusal(capsys, start)
    atoms = ase.io.read(written(tmp_path / "start.xyz"))
    atoms.set_constraint(FixAtoms([0, 2]))
    ase.io.write(start, atoms, columns=["symbols", "positions", "move_mask"])
    first_frame(start, tmp_path)
    assert "constraints of the file: FixAtoms of 2 atoms" in capsys.readouterr().err


def test_results_of_another_state_are_not_written(tmp_path):
    start = written(tmp_path / "start.xyz")
    predicted = tmp_path / "predicted.xyz"
    assert run(["predict", str(start), "--outputs=hybrid", f"--output={predicted}"]) == 0
    assert "direct_forces" in ase.io.read(predicted).arrays
    frame = first_frame(predicted, tmp_path)
    assert not {"direct_forces", "conservative_forces", "atom_energies"} & set(frame.arrays)


@pytest.mark.parametrize("ensemble", ["svr", "svr-local"])
def test_velocity_rescaling_from_rest_is_refused_and_leaves_no_files(tmp_path, capsys, ensemble):
    start = written(tmp_path / "start.xyz", np.zeros((N_ATOMS, 3)))
    names = {"log": "run.csv", "trajectory": "run.traj", "restart": "run.npz", "plot": "run.png"}
    files = [f"--{option}={tmp_path / name}" for option, name in names.items()]
    for where in ([], ["--on-server"]):
        options = [f"--ensemble={ensemble}", *files, *where]
        assert "--new-velocities" in refusal(capsys, start, *options)
        assert [*tmp_path.iterdir()] == [start]
    assert run(["md", str(start), "--steps=1", "--new-velocities", *options]) == 0


def test_a_refused_start_leaves_old_files_as_they_are(tmp_path):
    uranium = tmp_path / "uranium.xyz"
    ase.io.write(uranium, Atoms("U2", [[0, 0, 0], [0, 0, 3.0]]))
    log, trajectory = tmp_path / "log.csv", tmp_path / "old.traj"
    log.write_text("precious")
    for where in ([], ["--on-server"]):
        arguments = ["md", str(uranium), f"--log={log}", f"--trajectory={trajectory}", *where]
        assert run([*arguments, "--model=missing"]) == 1
        assert run([*arguments, "--ensemble=npt-isotropic"]) == 2
        assert log.read_text() == "precious"
        assert not trajectory.exists()


@pytest.mark.parametrize("option", ["--trajectory", "--log", "--restart", "--plot"])
def test_md_does_not_write_over_its_input(tmp_path, capsys, monkeypatch, option):
    suffix = ".png" if option == "--plot" else ".xyz"
    start = written(tmp_path / f"start{suffix}")
    content = start.read_bytes()
    links = [tmp_path / f"{kind}{suffix}" for kind in ("hard", "soft")]
    os.link(start, links[0])
    links[1].symlink_to(start)
    monkeypatch.chdir(tmp_path)
    inside = tmp_path / "folder"
    inside.mkdir()
    for path in (start, *links, start.name, inside / ".." / start.name):
        line = refusal(capsys, start, f"{option}={path}", "--steps=1")
        assert f"{option} {path}: expected a file of its own" in line
        assert start.read_bytes() == content


def test_two_outputs_may_not_be_one_file(tmp_path, capsys):
    start, both = written(tmp_path / "start.xyz"), tmp_path / "both.xyz"
    line = refusal(capsys, start, f"--log={both}", f"--trajectory={both}")
    assert "got the same file as" in line
    assert not both.exists()
    assert run(["md", str(start), "--steps=1", "--log=/dev/null"]) == 0


@pytest.mark.parametrize("option", ["trajectory", "log", "restart", "plot"])
def test_a_folder_that_is_missing_is_noticed_before_the_run(tmp_path, capsys, option):
    start = written(tmp_path / "start.xyz")
    path = tmp_path / "missing" / "run.xyz"
    assert f"No such file or directory: '{path}'" in refusal(capsys, start, f"--{option}={path}")
    assert f"Is a directory: '{tmp_path}'" in refusal(capsys, start, f"--{option}={tmp_path}")


def test_a_plot_in_an_unknown_format_is_refused_before_the_run(tmp_path, capsys):
    start = written(tmp_path / "start.xyz")
    line = refusal(capsys, start, f"--plot={tmp_path / 'run.plot'}", "--steps=1")
    assert "run.plot: expected a name that ends in" in line
