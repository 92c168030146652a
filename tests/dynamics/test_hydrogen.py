"""Repartitioned hydrogen masses: molecules keep their total mass."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from twinforce.ase import repartition_hydrogen_mass


@pytest.mark.parametrize("name", ["H2O", "CH4", "CH3CH2OH", "C6H6", "NH3"])
def test_hydrogens_get_the_new_mass_and_molecules_keep_their_total_mass(name):
    atoms = molecule(name)
    before = atoms.get_masses()
    repartition_hydrogen_mass(atoms, 3.0)
    masses = atoms.get_masses()
    np.testing.assert_array_equal(masses[atoms.numbers == 1], 3.0)
    assert masses.sum() == pytest.approx(before.sum())
    assert (masses[atoms.numbers != 1] < before[atoms.numbers != 1]).sum() > 0
    repartition_hydrogen_mass(atoms, 3.0)
    np.testing.assert_allclose(atoms.get_masses(), masses)


def test_bonds_across_cell_boundaries_are_found():
    atoms = molecule("H2O", cell=[6.0] * 3, pbc=True)
    atoms.positions += [0.0, 0.3, 0.0]
    atoms.wrap()
    pair = atoms + atoms
    pair.positions[3:] += 3.0
    repartition_hydrogen_mass(pair, 2.0)
    np.testing.assert_allclose(pair.get_masses()[[0, 3]], 15.999 - 2 * (2.0 - 1.008))


@pytest.mark.parametrize(
    ("atoms", "mass", "text"),
    [
        (molecule("H2"), 3.0, "expected a heavier atom bonded to hydrogen 0"),
        (Atoms("OH", [[0, 0, 0], [0, 0, 3.0]]), 3.0, "bonded to hydrogen 1, got none"),
        (molecule("CH4"), 4.0, "would leave 0.043 amu to atom 0"),
        (molecule("H2O"), -1.0, "mass: expected a positive number"),
    ],
)
def test_masses_that_cannot_be_repartitioned_are_refused(atoms, mass, text):
    before = atoms.get_masses()
    with pytest.raises(ValueError, match=text):
        repartition_hydrogen_mass(atoms, mass)
    np.testing.assert_array_equal(atoms.get_masses(), before)
