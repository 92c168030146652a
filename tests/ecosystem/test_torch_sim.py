"""Test of TorchSim."""

import numpy as np
import pytest
from ase.calculators.emt import EMT

PROGRAM = "torch-sim-atomistic"
pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]


def test_models_of_torch_sim(recipe):
    """A model that asks a service: energies, forces and stresses of several systems at once."""
    import torch_sim

    names = recipe("TorchSim")
    crystals, found = names["crystals"], names["model"](names["state"])
    for crystal in crystals:
        crystal.calc = EMT()
    energies = [crystal.get_potential_energy() for crystal in crystals]
    np.testing.assert_allclose(found["energy"], energies, atol=1e-9)
    forces = np.concatenate([crystal.get_forces() for crystal in crystals])
    np.testing.assert_allclose(found["forces"], forces, atol=1e-9)
    stresses = [crystal.get_stress(voigt=False) for crystal in crystals]
    np.testing.assert_allclose(found["stress"], stresses, atol=1e-9)
    moved = torch_sim.integrate(
        names["state"], names["model"], integrator=torch_sim.nve, n_steps=5, temperature=300,
        timestep=0.001,
    )  # fmt: skip
    assert (moved.positions != names["state"].positions).any()
