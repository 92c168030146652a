"""Test of OpenMM, through OpenMM-ML."""

import numpy as np
import pytest

PROGRAM = "openmmml"
pytestmark = pytest.mark.ecosystem


def test_dynamics_of_openmm(recipe):
    """OpenMM with OpenMM-ML: the steps of a liquid are those with the calculator itself."""
    remote, local = recipe("OpenMM"), recipe("OpenMM", is_local=True)
    positions = [names["state"].getPositions(asNumpy=True)._value for names in (remote, local)]
    np.testing.assert_allclose(*positions, atol=1e-8)
    energies = [names["state"].getPotentialEnergy()._value for names in (remote, local)]
    assert energies[0] == pytest.approx(energies[1], abs=1e-3)
