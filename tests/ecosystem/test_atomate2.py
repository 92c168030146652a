"""Test of atomate2."""

import pytest

PROGRAM = "atomate2"
pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]


def test_a_maker_relaxes_a_cell(recipe):
    """A maker for force fields: a relaxation is that with the calculator itself."""
    remote, local = (recipe("atomate2", is_local=is_local)["found"] for is_local in (False, True))
    assert remote.output.energy == pytest.approx(local.output.energy, abs=1e-8)
    assert remote.structure.lattice.a == pytest.approx(local.structure.lattice.a, abs=1e-8)
