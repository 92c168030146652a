"""The `results` of a calculator: properties of ASE, with all other quantities at hand."""

from dataclasses import replace
from typing import Any

import numpy as np
from ase.stress import full_3x3_to_voigt_6_stress

from twinforce_proto import OUTPUTS, Prediction


class Results(dict[str, Any]):
    """The properties of ASE that follow from a prediction, under their names in ASE.

    Keys are names of ASE alone, so that ASE can copy, export and write all of them. The other
    quantities of the prediction can be read by name, such as results["direct_forces"], but are not
    among the keys. Every array is a copy, which callers may change.

    Attributes:
        prediction: Prediction that the properties follow from.
    """

    def __init__(self, prediction: Prediction, force_kind: str) -> None:
        stress = getattr(prediction, f"{force_kind}_stress")
        values = {
            "energy": prediction.energy,
            "free_energy": prediction.energy,
            "energies": prediction.atom_energies,
            "forces": getattr(prediction, f"{force_kind}_forces"),
            "stress": None if stress is None else full_3x3_to_voigt_6_stress(stress),
        }
        super().__init__(
            {name: _copied(value) for name, value in values.items() if value is not None}
        )
        self.prediction = prediction

    def __missing__(self, name: str) -> Any:
        value = getattr(self.prediction, name) if name in OUTPUTS else None
        if value is None:
            raise KeyError(name)
        return _copied(value)


def outputs_in(prediction: Prediction | None) -> frozenset[str]:
    """Return the names of the quantities in a prediction."""
    return frozenset(name for name in OUTPUTS if getattr(prediction, name, None) is not None)


def merged(before: Prediction | None, after: Prediction) -> Prediction:
    """Return a prediction with the quantities of both, which are of the same system."""
    kept = outputs_in(before) - outputs_in(after)
    return replace(after, **{name: getattr(before, name) for name in kept})


def _copied(value: Any) -> Any:
    return np.array(value) if isinstance(value, np.ndarray) else value
