"""Test of OpenMM, through OpenMM-ML, and with both kinds of forces as forces of its own."""

import dataclasses
import math
import re

import ase.io
import numpy as np
import pytest
from ase import units

from tests.docs.pages import ROOT
from tests.ecosystem.serving import service_of
from twinforce import Client
from twinforce.ase import MultipleTimeStepping, TwinForceCalculator, system_of
from twinforce.md import draw_velocities
from twinforce.openmm import INNER_GROUP, OUTER_GROUP, add_hybrid_forces

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


def openmm_system(box=None):
    """Return a system of OpenMM with 192 particles, and its box in Å."""
    import openmm

    system = openmm.System()
    for _ in range(192):
        system.addParticle(18.0)
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*(np.array(box) * openmm.unit.angstrom))
    return system


def water(**changes):
    atoms = ase.io.read(ROOT / "demo" / "water64.xyz")
    return dataclasses.replace(system_of(atoms), **changes)


LENGTH = water().cell[0, 0]
BOX = LENGTH * np.eye(3)
SHEARED = BOX @ [[1, 0, 0], [0, 1, 0], [1, -1, 1]]


@pytest.mark.parametrize("inner_steps", [0, 2.5, 4.0, None, math.inf, math.nan, True, "4"])
def test_steps_that_are_no_number_are_refused(inner_steps):
    """Errors: numbers of inner steps that are none."""
    with pytest.raises(ValueError, match="inner_steps: expected a whole number, at least 1, got "):
        add_hybrid_forces(openmm_system(BOX), None, water(), inner_steps)


def test_other_numbers_of_atoms_are_refused():
    """Errors: another number of atoms."""
    import openmm

    with pytest.raises(ValueError, match="expected 0 atoms, got 192"):
        add_hybrid_forces(openmm.System(), None, water(), 4)


@pytest.mark.parametrize(
    ("box", "cell", "pbc"),
    [
        (BOX, BOX, [True] * 3),
        (BOX, SHEARED, [True] * 3),  # the same lattice by other vectors
        (BOX.round(3), BOX, [True] * 3),
        (np.diag([LENGTH, LENGTH, 40.0]), BOX, [True, True, False]),
        (None, BOX, [False] * 3),
    ],
)
def test_a_box_with_the_same_lattice_is_accepted(box, cell, pbc):
    """Boxes: reduced vectors, rounded ones, slabs and molecules get two forces."""
    system = openmm_system(box)
    add_hybrid_forces(system, None, water(cell=cell, pbc=pbc), 4)
    forces = [system.getForce(index) for index in range(system.getNumForces())]
    assert [force.getForceGroup() for force in forces] == [OUTER_GROUP, INNER_GROUP]
    assert {force.usesPeriodicBoundaryConditions() for force in forces} == {any(pbc)}


@pytest.mark.parametrize(
    ("box", "pbc"),
    [
        (None, [True] * 3),  # that of OpenMM, 2 nm
        (None, [True, True, False]),
        (2 * BOX, [True] * 3),
        (BOX @ [[1, 0, 0], [0, 1, 0], [0.5, 0, 1]], [True] * 3),
        (BOX + 0.01 * np.eye(3), [True] * 3),
    ],
)
def test_another_box_is_refused(box, pbc):
    """Errors: a forgotten or another box of OpenMM."""
    system = openmm_system(box)
    got = 20.0 * np.eye(3) if box is None else box
    text = f"box {BOX.tolist()} Å of system, got [[{str(got[0, 0])[:4]}"
    with pytest.raises(ValueError, match=re.escape(text) + ".* Å; set it with setDefaultPer"):
        add_hybrid_forces(system, None, water(pbc=pbc), 4)
    assert system.getNumForces() == 0


def test_an_old_version_is_refused(monkeypatch):
    """Errors: OpenMM before 8.5, which lacks forces in Python."""
    import openmm

    monkeypatch.delattr(openmm, "PythonForce")
    monkeypatch.setattr(openmm, "__version__", "8.4.0")
    with pytest.raises(ImportError, match=r"openmm: expected 8\.5 or later, got 8\.4\.0"):
        add_hybrid_forces(openmm_system(BOX), None, water(), 4)
