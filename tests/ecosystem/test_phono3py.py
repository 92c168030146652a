"""Test of phono3py."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

PROGRAM = "phono3py"
pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]


def test_third_order_force_constants(recipe):
    """Thermal conductivity: the forces of all displacements are those of the calculator."""
    phonons = recipe("phono3py")["phonons"]
    displaced = phonons.supercells_with_displacements
    assert len(displaced) == len(phonons.forces) > 10
    for cell, found in zip(displaced, phonons.forces, strict=True):
        atoms = Atoms(
            cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True
        )
        atoms.calc = EMT()
        np.testing.assert_allclose(found, atoms.get_forces(), atol=1e-9)
    kappa = phonons.thermal_conductivity.kappa.ravel()
    np.testing.assert_allclose(kappa[:3], kappa[0], rtol=1e-6)
    assert kappa[0] > 0
