"""The parts of a prediction that are saved in atoms and databases of ASE, besides the results.

* per atom: `conservative_forces`, `direct_forces`, `atom_energies`
* per system: `conservative_stress`, `direct_stress` (each [3, 3], in eV/Å³), `force_rmse` and
  `force_rmse_X` for each element X, the disagreement of both forces in eV/Å, and the provenance:
  `twinforce_model`, `twinforce_version`, `twinforce_sha256`, `twinforce_dtype`, `twinforce_device`
"""

from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from ase import Atoms

from twinforce._systems import system_of
from twinforce_dynamics.disagreement import disagreements
from twinforce_dynamics.elements import SYMBOLS
from twinforce_proto import OUTPUTS, STRESSES, Prediction

PerAtom = Literal["arrays", "info"]
PER_ATOM: tuple[PerAtom, ...] = ("arrays", "info")

RMSE, PROVENANCE = "force_rmse", "twinforce_"
_PROVENANCE = ("model", "version", "sha256", "dtype", "device")
# All names under which something is saved; what else a user has in atoms is left alone.
_SAVED = frozenset(OUTPUTS) - {"energy"} | {
    RMSE,
    *(f"{RMSE}_{symbol}" for symbol in SYMBOLS),
    *(f"{PROVENANCE}{name}" for name in _PROVENANCE),
}


def save(atoms: Atoms, prediction: Prediction, per_atom: PerAtom = "arrays") -> None:
    """Save a prediction in the arrays and the info of its atoms, in place of an earlier one.

    Args:
        atoms: Atoms that the prediction is of.
        prediction: Prediction to save.
        per_atom: "arrays" or, for files that have no columns of their own such as .traj, "info",
            for what there is one of per atom.
    """
    check_per_atom(per_atom)
    remove_saved(atoms)
    for name, value in _values_per_atom(prediction).items():
        if per_atom == "arrays":
            atoms.set_array(name, value)
        else:
            atoms.info[name] = value
    atoms.info.update(_stresses(prediction) | _labels(atoms, prediction))


def database_entries(atoms: Atoms, prediction: Prediction) -> dict[str, dict[str, Any]]:
    """Return the arguments that make `ase.db` keep a prediction: `key_value_pairs` and `data`.

    Texts that read like a number, such as version "3", are in `data`, as ASE allows no others.
    """
    labels = _labels(atoms, prediction)
    pairs = {name: value for name, value in labels.items() if not _reads_like_a_number(value)}
    others = {name: value for name, value in labels.items() if name not in pairs}
    data = _values_per_atom(prediction) | _stresses(prediction) | others
    return {"key_value_pairs": pairs, "data": data}


def remove_saved(atoms: Atoms) -> None:
    """Remove what was saved of an earlier prediction."""
    for labels in (atoms.info, atoms.arrays):
        for name in _SAVED.intersection(labels):
            del labels[name]


def check_per_atom(value: object) -> None:
    """Check the place of what there is one of per atom.

    Raises:
        ValueError: There is no such place.
    """
    if value not in PER_ATOM:
        raise ValueError(f"per_atom: expected {' or '.join(map(repr, PER_ATOM))}, got {value!r}")


def _values_per_atom(prediction: Prediction) -> dict[str, Any]:
    return _copies(prediction, [name for name in OUTPUTS if name not in {"energy", *STRESSES}])


def _stresses(prediction: Prediction) -> dict[str, Any]:
    return _copies(prediction, sorted(STRESSES))


def _copies(prediction: Prediction, names: list[str]) -> dict[str, Any]:
    values = {name: getattr(prediction, name) for name in names}
    return {name: np.array(value) for name, value in values.items() if value is not None}


def _reads_like_a_number(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return value in ("True", "False")
    return True


def _labels(atoms: Atoms, prediction: Prediction) -> dict[str, Any]:
    """Return the disagreement of both forces and the provenance, as far as they are known."""
    labels: dict[str, Any] = {}
    for found in disagreements([system_of(atoms)], [prediction]):
        labels[RMSE] = found.rmse
        labels |= {f"{RMSE}_{SYMBOLS[z - 1]}": rmse for z, rmse in found.by_element.items()}
    if prediction.provenance is not None:
        values = asdict(prediction.provenance)
        labels |= {PROVENANCE + name: values[name] for name in _PROVENANCE}
    return labels
