"""Test of phonopy, with the displaced structures in one request."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

PROGRAM = "phonopy"
pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]


def test_phonons_of_phonopy(recipe):
    """Phonons: the forces of all displacements, from one request, are those of the calculator."""
    names = recipe("phonopy")
    expected = [Atoms(each, calculator=EMT()).get_forces() for each in names["displaced"]]
    np.testing.assert_allclose(names["phonons"].forces, expected, atol=1e-9)
    assert (names["frequencies"] > 1.0).all()
