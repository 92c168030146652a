"""Test of matcalc."""

import pytest

PROGRAM = "matcalc"
pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]


def test_properties_of_matcalc(recipe):
    """Relaxation and equation of state are those with the calculator itself."""
    remote, local = recipe("matcalc"), recipe("matcalc", is_local=True)
    assert remote["relaxed"]["a"] == pytest.approx(local["relaxed"]["a"], abs=1e-5)
    for name in ("energy", "volume"):
        assert remote["relaxed"][name] == pytest.approx(local["relaxed"][name], abs=1e-5)
    modulus = local["curve"]["bulk_modulus_bm"]
    assert remote["curve"]["bulk_modulus_bm"] == pytest.approx(modulus, rel=1e-4)
