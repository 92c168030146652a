"""Tests that restart files of earlier versions are still read."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms, units

from tests.clients.serving import ARGON
from tests.systems import crystal
from twinforce.ase import NPT, NVE, SVR, MultipleTimeStepping, TwinForceCalculator
from twinforce.restart import Restart
from twinforce_dynamics.units import BAR, in_fs

SETTINGS = {
    "time-step": "0.2",
    "inner-steps": "4",
    "forces": "hybrid",
    "ensemble": (
        "NPT(thermostat=SVR(temperature_k=40.0, relaxation=1.0, scope='global'), pressure=0.0, "
        "relaxation=10.0, coupling='anisotropic', compressibility=70.0)"
    ),
}
RNG = {
    "bit_generator": "PCG64",
    "state": {"state": 2**100 + 7, "inc": 2**90 + 1},
    "has_uint32": 0,
    "uinteger": 0,
}


@pytest.fixture
def path(tmp_path):
    """A restart file with the layout of format 1."""
    system, path = crystal(8), tmp_path / "restart.npz"
    np.savez(
        path,
        format="twinforce restart 1",
        numbers=np.full(8, ARGON),
        masses=np.full(8, 39.948),
        n_steps=5,
        settings=json.dumps(SETTINGS),
        rng=json.dumps(RNG),
        positions=system.positions + 0.01,
        momenta=np.random.default_rng(0).normal(size=(8, 3)),
        cell=1.01 * system.cell,
        supplied=-0.5,
        correction_work=0.25,
        prediction_energy=-1.5,
        prediction_conservative_forces=np.zeros((8, 3)),
        prediction_direct_forces=np.zeros((8, 3)),
        prediction_conservative_stress=np.zeros((3, 3)),
        prediction_direct_stress=np.zeros((3, 3)),
    )
    return path


def test_a_file_of_an_earlier_version_continues(url, path):
    system = crystal(8)
    atoms = Atoms([ARGON] * 8, system.positions, cell=system.cell, pbc=True)
    thermostat = SVR(temperature_k=40.0, relaxation_fs=in_fs(1.0))
    ensemble = NPT(
        thermostat=thermostat,
        pressure_bar=0.0,
        relaxation_fs=in_fs(10.0),
        coupling="anisotropic",
        compressibility_per_bar=70.0 * BAR,
    )
    with TwinForceCalculator(url) as atoms.calc:
        dynamics = MultipleTimeStepping(atoms, 0.2, inner_steps=4, ensemble=ensemble)
        dynamics.restore(path)
        np.testing.assert_array_equal(atoms.positions, system.positions + 0.01)
        np.testing.assert_array_equal(atoms.cell.array, 1.01 * system.cell)
        assert dynamics.conserved_energy() == -1.5 + dynamics.kinetic_energy + 0.5
        assert dynamics.rng.bit_generator.state == RNG
        dynamics.run(1)
        assert dynamics.nsteps == 6


STORED = (
    "NPT(thermostat=SVR(temperature_k=40.0, relaxation_fs=100.0, scope='global'), "
    "pressure_bar=2.0, relaxation_fs=1000.0, coupling='anisotropic', "
    "compressibility_per_bar=4.6e-05)"
)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"ensemble": SVR(temperature_k=40.0, relaxation_fs=50.0)},
            "ensemble SVR(temperature_k=40.0, relaxation_fs=50.0, scope='global'), got " + STORED,
        ),
        ({"ensemble": NVE()}, "ensemble NVE(), got " + STORED),
        ({"timestep": 0.25 * units.fs}, "time-step 0.25 fs, got 0.5 fs"),
    ],
)
def test_other_settings_are_told_in_units_of_arguments(url, tmp_path, change, expected):
    system, path = crystal(8), tmp_path / "run.npz"
    atoms = Atoms([ARGON] * 8, system.positions, cell=system.cell, pbc=True)
    thermostat = SVR(temperature_k=40.0, relaxation_fs=100.0)
    ensemble = NPT(
        thermostat=thermostat, pressure_bar=2.0, relaxation_fs=1000.0, coupling="anisotropic"
    )
    assert repr(ensemble) == STORED
    given = {"timestep": 0.5 * units.fs, "ensemble": ensemble}
    with TwinForceCalculator(url) as atoms.calc:
        MultipleTimeStepping(atoms, **given).save(path)
        with pytest.raises(ValueError, match=re.escape(expected) + "$"):
            MultipleTimeStepping(atoms, **given | change).restore(path)


def test_settings_that_are_no_numbers_are_told_as_they_are(crystal_dynamics, tmp_path):
    path = tmp_path / "run.npz"
    crystal_dynamics.save(path)
    saved = Restart.load(path)
    for settings, got in (
        ({"ensemble": "SVR(relaxation=long)"}, "got SVR(relaxation=long)"),
        ({"time-step": "short"}, "got short"),
        ({"forces": None}, "got None"),
    ):
        replace(saved, settings={**saved.settings, **settings}).save(path)
        with pytest.raises(ValueError, match=re.escape(got) + "$"):
            crystal_dynamics.restore(path)


def test_a_file_is_written_with_the_same_content(path, tmp_path):
    copy = tmp_path / "copy.npz"
    Restart.load(path).save(copy)
    with np.load(path) as expected, np.load(copy) as found:
        assert sorted(found) == sorted(expected)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])


@pytest.fixture
def crystal_dynamics(url):
    """Dynamics of a crystal with settings of their own."""
    system = crystal(8)
    atoms = Atoms([ARGON] * 8, system.positions, cell=system.cell, pbc=True)
    with TwinForceCalculator(url) as atoms.calc:
        yield MultipleTimeStepping(atoms, 0.2, inner_steps=4, ensemble=NVE(), seed=1)


BAD = {
    "positions": np.zeros((4, 3)),
    "momenta": np.full((8, 3), np.nan),
    "cell": np.ones(3),
    "prediction_energy": np.inf,
    "prediction_direct_forces": np.zeros((2, 3)),
    "supplied": np.nan,
    "n_steps": -1,
    "rng": json.dumps({}),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_file_is_refused_by_name_and_moves_nothing(crystal_dynamics, tmp_path, name):
    path = tmp_path / "run.npz"
    crystal_dynamics.run(1)
    crystal_dynamics.save(path)
    with np.load(path) as archive:
        content = dict(archive)
    np.savez(path, **content | {name: BAD[name]})
    atoms = crystal_dynamics.atoms
    positions, momenta = atoms.positions.copy(), atoms.get_momenta()
    crystal_dynamics.rng.random()
    state = crystal_dynamics.rng.bit_generator.state
    with pytest.raises(ValueError, match=r"run\.npz: "):
        crystal_dynamics.restore(path)
    np.testing.assert_array_equal(atoms.positions, positions)
    np.testing.assert_array_equal(atoms.get_momenta(), momenta)
    assert crystal_dynamics.rng.bit_generator.state == state
    assert crystal_dynamics.nsteps == 1


def test_a_file_without_a_prediction_that_steps_need_is_evaluated_anew(crystal_dynamics, tmp_path):
    path, atoms = tmp_path / "run.npz", crystal_dynamics.atoms
    crystal_dynamics.run(1)
    crystal_dynamics.save(path)
    with np.load(path) as archive:
        content = dict(archive)
    del content["prediction_direct_forces"]
    np.savez(path, **content)
    crystal_dynamics.run(2)
    expected = atoms.positions.copy()
    crystal_dynamics.restore(path)
    crystal_dynamics.run(2)
    np.testing.assert_allclose(atoms.positions, expected, rtol=0, atol=1e-12)
