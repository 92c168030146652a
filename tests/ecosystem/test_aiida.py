"""Test of AiiDA."""

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

PROGRAM = "aiida-core"
pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]


def test_calculation_function(recipe, tmp_path, monkeypatch):
    """A calculation function: the energy of the calculator, and the model in the provenance."""
    monkeypatch.setenv("AIIDA_PATH", str(tmp_path))
    found = recipe("AiiDA")["found"]
    copper = bulk("Cu", cubic=True, a=3.6)
    copper.calc = EMT()
    assert found["energy"] == pytest.approx(copper.get_potential_energy(), abs=1e-9)
    assert found.creator.inputs.model.value == "elements6"
