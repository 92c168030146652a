"""Test of Sella."""

import numpy as np
import pytest

PROGRAM = "sella"
pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]


def test_saddle_points_of_sella(recipe):
    """The search of a saddle point takes the steps that it takes with the calculator itself."""
    remote, local = recipe("Sella"), recipe("Sella", is_local=True)
    assert remote["search"].nsteps == local["search"].nsteps
    np.testing.assert_allclose(remote["slab"].positions, local["slab"].positions, atol=1e-5)
    assert np.abs(remote["slab"].get_forces()).max() < 0.05
