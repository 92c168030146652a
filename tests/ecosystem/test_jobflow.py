"""Test of jobflow."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

PROGRAM = "jobflow"
pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]


def test_jobs_of_a_flow(recipe):
    """A flow of two jobs: the lattice constant is that with the calculator itself."""
    names, energies = recipe("jobflow"), []
    for length in names["lengths"]:
        crystal = bulk("Cu", cubic=True, a=length)
        crystal.calc = EMT()
        energies.append(crystal.get_potential_energy())
    second, first, _ = np.polyfit(names["lengths"], energies, 2)
    assert names["found"] == pytest.approx(-first / (2 * second), abs=1e-8)
