"""Test of OpenMM, through OpenMM-ML, and with both kinds of forces as forces of its own."""

import ase.io
import numpy as np
import pytest
from ase import units

from tests.docs.pages import ROOT
from tests.ecosystem.serving import service_of
from twinforce import Client
from twinforce.ase import MultipleTimeStepping, TwinForceCalculator, system_of
from twinforce.md import draw_velocities
from twinforce.openmm import add_hybrid_forces

PROGRAM = "openmmml"
pytestmark = pytest.mark.ecosystem
KJ_PER_MOL = units.kJ / units.mol


def positions_in(state):
    """Return the positions in a state of OpenMM, in Å."""
    return 10 * state.getPositions(asNumpy=True)._value


def test_dynamics_of_openmm(recipe):
    """OpenMM with OpenMM-ML: the steps of a liquid are those with the calculator itself."""
    remote, local = recipe("OpenMM"), recipe("OpenMM", is_local=True)
    positions = [positions_in(names["state"]) for names in (remote, local)]
    np.testing.assert_allclose(*positions, atol=1e-7)
    energies = [names["state"].getPotentialEnergy()._value for names in (remote, local)]
    assert energies[0] == pytest.approx(energies[1], abs=1e-3)


def test_multiple_time_stepping(recipe, tmp_path):
    """MTS by OpenMM: the steps of our own, with as many evaluations."""
    atoms = ase.io.read(ROOT / "demo" / "water64.xyz")
    draw_velocities(atoms, 300, np.random.default_rng(1))
    with service_of(tmp_path, water="water") as url, Client(url) as client:
        state = recipe("Multiple time stepping by OpenMM", url=url)["state"]
        n_evaluations = client.status().models[0].n_evaluations
        assert n_evaluations == 9  # two outer steps of four inner ones, and the start
        with TwinForceCalculator(url) as atoms.calc:
            MultipleTimeStepping(atoms, 0.5 * units.fs, inner_steps=4).run(2)
            np.testing.assert_allclose(positions_in(state), atoms.positions, atol=1e-7)
            energy = state.getPotentialEnergy()._value * KJ_PER_MOL
            assert energy == pytest.approx(atoms.get_potential_energy(), rel=1e-7)


def test_what_does_not_fit_is_refused():
    """Errors: other numbers of atoms, and steps that are none."""
    from openmm import System

    system, atoms = System(), system_of(ase.io.read(ROOT / "demo" / "water64.xyz"))
    with pytest.raises(ValueError, match="expected 0 atoms, got 192"):
        add_hybrid_forces(system, None, atoms, 4)
    with pytest.raises(ValueError, match="inner_steps: expected a whole number"):
        add_hybrid_forces(system, None, atoms, 0)
