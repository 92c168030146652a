"""Test of quacc."""

import numpy as np
import pytest

PROGRAM = "quacc"
pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]


def test_a_job_relaxes_a_cell(recipe):
    """A job with a calculator of its own: a relaxation is that with the calculator itself."""
    remote, local = (recipe("quacc", is_local=is_local)["found"] for is_local in (False, True))
    energies = [each["results"]["energy"] for each in (remote, local)]
    assert energies[0] == pytest.approx(energies[1], abs=1e-8)
    lengths = [each["atoms"].cell.lengths() for each in (remote, local)]
    np.testing.assert_allclose(*lengths, atol=1e-8)
