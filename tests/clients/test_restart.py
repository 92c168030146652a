"""Tests that restart files of earlier versions are still read."""

import json

import numpy as np
import pytest
from ase import Atoms

from tests.clients.serving import ARGON
from tests.systems import crystal
from twinforce.ase import NPT, SVR, MultipleTimeStepping, TwinForceCalculator
from twinforce.restart import Restart

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
    thermostat = SVR(temperature_k=40.0, relaxation=1.0)
    ensemble = NPT(
        thermostat=thermostat,
        pressure=0.0,
        relaxation=10.0,
        coupling="anisotropic",
        compressibility=70.0,
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


def test_a_file_is_written_with_the_same_content(path, tmp_path):
    copy = tmp_path / "copy.npz"
    Restart.load(path).save(copy)
    with np.load(path) as expected, np.load(copy) as found:
        assert sorted(found) == sorted(expected)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])
