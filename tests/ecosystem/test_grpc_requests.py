"""Test of grpc-requests, a client that learns the service by reflection."""

import pytest
from ase import Atoms
from ase.calculators.emt import EMT

PROGRAM = "grpc-requests"
pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]


def test_calls_by_reflection(recipe):
    """A client that knows only the address lists models and predicts."""
    names = recipe("grpc-requests")
    assert {model["name"] for model in names["models"]} == {"water", "elements6"}
    (prediction,) = names["reply"]["predictions"]
    atoms = Atoms("OH2", names["positions"], calculator=EMT())
    assert prediction["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
