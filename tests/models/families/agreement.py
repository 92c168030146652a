"""Comparison of our predictions for a batch with those of a project's own ASE calculator."""

import numpy as np
import torch
from ase.stress import voigt_6_to_full_3x3_stress

from tests.models.families.systems import ours
from twinforce_models.prediction import predict
from twinforce_proto import STRESSES

# float64: eV, eV/Å and eV/Å³; float32: eV per atom, and per largest force in eV/Å.
EXACT = 1e-8
ROUNDED_ENERGY, ROUNDED_FORCE, ROUNDED_STRESS = 1e-5, 3e-5, 1e-6


def reference(calculator, atoms):
    """Return energy, forces and, if the system is periodic, stress of a calculator."""
    calculator.calculate(atoms)
    results = dict(calculator.results)
    found = {"energy": float(results["energy"]), "forces": np.reshape(results["forces"], (-1, 3))}
    if atoms.pbc.all():
        stress = np.asarray(results["stress"])
        is_full = stress.shape == (3, 3)
        found["stress"] = stress if is_full else voigt_6_to_full_3x3_stress(stress)
    return found


def assert_agree(potential, calculator, systems, kind, outputs=None):
    """Compare one batch of all systems with the calculator, which takes one after another.

    Args:
        kind: "conservative" or "direct": the outputs that the calculator's forces are compared to.
        outputs: Outputs to request in one pass. None requests those that are compared.
    """
    names = {"energy": "energy", "forces": f"{kind}_forces", "stress": f"{kind}_stress"}
    if not all(atoms.pbc.all() for atoms in systems.values()):
        del names["stress"]
        outputs = outputs and set(outputs) - STRESSES
    batch = [ours(atoms) for atoms in systems.values()]
    predictions = predict(potential, batch, outputs or names.values())
    for (name, atoms), prediction in zip(systems.items(), predictions, strict=True):
        expected = reference(calculator, atoms)
        for theirs, mine in names.items():
            value = getattr(prediction, mine)
            tolerance = allowed(potential.dtype, theirs, expected, len(atoms))
            np.testing.assert_allclose(
                value, expected[theirs], rtol=0, atol=tolerance, err_msg=f"{name}: {mine}"
            )


def allowed(dtype, name, expected, n_atoms):
    if dtype == torch.float64:
        return EXACT
    if name == "energy":
        return ROUNDED_ENERGY * n_atoms
    relative = ROUNDED_FORCE if name == "forces" else ROUNDED_STRESS
    return relative * max(1.0, np.abs(expected["forces"]).max())
