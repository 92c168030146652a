"""Tests of what is saved in atoms: both kinds of forces, provenance and disagreement."""

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotPresent
from ase.md.verlet import VelocityVerlet

from tests.clients.serving import ARGON, serve
from tests.systems import molecule
from twinforce.ase import MultipleTimeStepping, TwinForceCalculator
from twinforce.cli import run

NEON = 10
PER_ATOM = ("conservative_forces", "direct_forces", "atom_energies")
STRESSES = ("conservative_stress", "direct_stress")
PROVENANCE = {f"twinforce_{name}" for name in ("model", "version", "sha256", "dtype", "device")}


@pytest.fixture(scope="module")
def server():
    with serve() as server:
        yield server


def argon(calculator):
    cell = [[7.6, 0, 0], [1.5, 7.6, 0], [0.3, -0.8, 7.6]]
    numbers = [ARGON] * 5 + [NEON] * 3
    return Atoms(numbers, molecule(8).positions, cell=cell, pbc=True, calculator=calculator)


@pytest.fixture
def calculator(server):
    extra = ("atom_energies", *STRESSES)
    with TwinForceCalculator(server.grpc_url, both_forces=True, extra_outputs=extra) as calculator:
        yield calculator


@pytest.fixture
def atoms(calculator):
    atoms = argon(calculator)
    atoms.get_forces()
    return atoms


def is_saved(atoms, prediction, per_atom="arrays"):
    """Check that atoms hold a prediction; true up to the digits of text files."""
    values = getattr(atoms, per_atom)
    for name in PER_ATOM:
        np.testing.assert_allclose(values[name], getattr(prediction, name), atol=1e-7)
    for name in STRESSES:
        np.testing.assert_allclose(atoms.info[name], getattr(prediction, name), atol=1e-7)
    difference = prediction.conservative_forces - prediction.direct_forces
    for name, rows in {"": slice(None), "_Ar": slice(5), "_Ne": slice(5, 8)}.items():
        expected = np.sqrt((difference[rows] ** 2).mean())
        assert atoms.info["force_rmse" + name] == pytest.approx(expected, abs=1e-7)
    assert str(atoms.info["twinforce_model"]) == "lj"
    assert str(atoms.info["twinforce_sha256"]) == prediction.provenance.sha256
    assert set(atoms.info) >= PROVENANCE
    return True


@pytest.mark.parametrize(("name", "per_atom"), [("all.extxyz", "arrays"), ("all.traj", "info")])
def test_files_keep_both_forces(atoms, calculator, tmp_path, name, per_atom):
    calculator.save_in(atoms, per_atom)
    assert is_saved(atoms, calculator.prediction, per_atom)
    ase.io.write(tmp_path / name, atoms)
    again = ase.io.read(tmp_path / name)
    assert is_saved(again, calculator.prediction, per_atom)
    np.testing.assert_allclose(again.get_forces(), atoms.get_forces(), atol=1e-7)


@pytest.mark.parametrize("suffix", ["db", "json"])
def test_a_database_keeps_both_forces(atoms, calculator, tmp_path, suffix):
    with ase.db.connect(tmp_path / f"all.{suffix}") as database:
        database.write(atoms, **calculator.database_entries(atoms))
        row = database.get(twinforce_model="lj")
    for name in (*PER_ATOM, *STRESSES):
        np.testing.assert_allclose(row.data[name], getattr(calculator.prediction, name))
    assert row.twinforce_sha256 == calculator.prediction.provenance.sha256
    assert row.force_rmse_Ne > 0.0
    assert row.energy == atoms.get_potential_energy()


def test_texts_that_read_like_numbers_are_data(tmp_path):
    with (
        serve(model={"7": "toy:lennard-jones"}) as server,
        ase.db.connect(tmp_path / "all.db") as database,
        TwinForceCalculator(server.grpc_url) as calculator,
    ):
        atoms = argon(calculator)
        atoms.get_forces()
        row = database.get(database.write(atoms, **calculator.database_entries(atoms)))
    assert row.data["twinforce_model"] == "7"


def test_what_was_saved_before_is_replaced(server, atoms, calculator):
    calculator.save_in(atoms)
    calculator.save_in(atoms, "info")
    assert not set(atoms.arrays) & set(PER_ATOM)
    with TwinForceCalculator(server.grpc_url) as atoms.calc:
        atoms.get_potential_energy()
        atoms.calc.save_in(atoms)
    assert not set(atoms.arrays) & set(PER_ATOM)
    assert set(atoms.info) == PROVENANCE


def test_nothing_is_saved_for_atoms_that_were_not_calculated(atoms, calculator):
    atoms.positions[0, 0] += 0.1
    with pytest.raises(PropertyNotPresent, match="last calculation, but positions changed since"):
        calculator.save_in(atoms)
    with pytest.raises(PropertyNotPresent, match="last calculation"):
        calculator.database_entries(atoms)
    assert not set(atoms.arrays) & set(PER_ATOM)
    with pytest.raises(ValueError, match=r"per_atom: expected 'arrays' or 'info', got 'columns'"):
        calculator.save_in(argon(calculator), "columns")


@pytest.mark.parametrize("dynamics", [VelocityVerlet, MultipleTimeStepping])
def test_trajectories_have_both_forces_if_they_are_saved_by_themselves(server, tmp_path, dynamics):
    path = str(tmp_path / "all.traj")
    options = {"both_forces": True, "autosave": "info"}
    with TwinForceCalculator(server.grpc_url, **options) as calculator:
        with dynamics(argon(calculator), 0.1, trajectory=path) as moving:
            moving.run(3)
        frames = ase.io.read(path, ":")
        assert len(frames) == 4
        for frame in frames:
            again = Atoms(frame, calculator=calculator)
            np.testing.assert_allclose(frame.info["conservative_forces"], again.get_forces())
            direct = calculator.prediction.direct_forces
            np.testing.assert_allclose(frame.info["direct_forces"], direct)
            assert frame.info["twinforce_model"] == "lj"


def test_saved_quantities_are_not_taken_for_those_of_another_state(
    atoms, calculator, tmp_path, server
):
    calculator.save_in(atoms)
    ase.io.write(tmp_path / "in.extxyz", atoms)
    arguments = ["predict", str(tmp_path / "in.extxyz"), "--url", server.grpc_url]
    assert run([*arguments, "--outputs", "energy", "-o", str(tmp_path / "out.extxyz")]) == 0
    again = ase.io.read(tmp_path / "out.extxyz")
    assert not (set(again.arrays) | set(again.info)) & {*PER_ATOM, *STRESSES, *PROVENANCE}


def test_what_a_user_keeps_under_names_of_their_own_stays(atoms, calculator):
    own = {"energy": -1.5, "twinforce_project": "ice", "force_rmse_note": "ok", "forces_dft": 3}
    atoms.info |= own
    atoms.get_forces()
    calculator.save_in(atoms)
    calculator.save_in(atoms)
    assert own.items() <= atoms.info.items()
    assert "twinforce_model" in atoms.info
