"""Test of geomeTRIC."""

import numpy as np
import pytest

PROGRAM = "geometric"
pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]


def test_optimizations_of_geometric(recipe):
    """The optimization of a molecule takes the steps that it takes with the calculator itself."""
    remote, local = recipe("geomeTRIC")["found"], recipe("geomeTRIC", is_local=True)["found"]
    np.testing.assert_allclose(remote.qm_energies, local.qm_energies, atol=1e-9)
    np.testing.assert_allclose(remote.xyzs[-1], local.xyzs[-1], atol=1e-6)
