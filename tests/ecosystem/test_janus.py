"""Test of janus-core."""

import numpy as np
import pytest

PROGRAM = "janus-core"
pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]


def test_calculations_of_janus(recipe):
    """Relaxation and equation of state are those with the calculator itself."""
    remote, local = recipe("janus-core"), recipe("janus-core", is_local=True)
    cells = [names["relaxation"].struct.cell.array for names in (remote, local)]
    np.testing.assert_allclose(*cells, atol=1e-5)
    modulus = local["curve"]["bulk_modulus"]
    assert remote["curve"]["bulk_modulus"] == pytest.approx(modulus, rel=1e-4)
