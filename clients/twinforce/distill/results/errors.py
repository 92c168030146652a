"""Errors of a student's forces on systems that it was not trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from twinforce._client import Client
from twinforce.distill.sampling.labels import bare

_KINDS = ("direct_forces", "conservative_forces")
_MOST_SYSTEMS = 48
_MOST_ATOMS_PER_REQUEST = 2_000


def test_systems(data: Path) -> list[Atoms]:
    """Return the labeled systems that no student was trained on, evenly chosen if there are many.

    Args:
        data: Folder of the labeled systems.
    """
    found = [
        example
        for path in sorted(data.glob("*.xyz"))
        for example in ase.io.read(path, ":")
        if example.info["split"] == "test"
    ]
    chosen = np.unique(np.linspace(0, len(found) - 1, min(len(found), _MOST_SYSTEMS)).astype(int))
    return [found[index] for index in chosen]


def errors_of(client: Client, model: str, systems: Sequence[Atoms]) -> dict[str, Any]:
    """Return the errors of a model on labeled systems.

    Returns:
        For each kind of forces that the model has, mean absolute and root mean square errors in
        eV/Å, over all components and for each species; the same of the energy in eV/atom; and the
        root mean square of the labels themselves.
    """
    outputs = [kind for kind in _KINDS if kind in client.model(model).outputs]
    predictions = [
        prediction
        for some in _requests(systems)
        for prediction in client.predict([bare(each) for each in some], ["energy", *outputs], model)
    ]
    labels = np.concatenate([each.get_forces() for each in systems])
    symbols = np.concatenate([each.get_chemical_symbols() for each in systems])
    errors: dict[str, Any] = {"n_systems": len(systems), "size": _by_species(labels, symbols)}
    for kind in outputs:
        found = np.concatenate([getattr(each, kind) for each in predictions])
        errors[kind] = _by_species(found - labels, symbols)
    differences = np.array(
        [
            (prediction.energy - each.get_potential_energy()) / len(each)
            for prediction, each in zip(predictions, systems, strict=True)
        ]
    )
    errors["energy"] = _sizes(differences)
    return errors


def _requests(systems: Sequence[Atoms]) -> list[list[Atoms]]:
    """Return the systems in portions that a busy CPU evaluates in time."""
    portions: list[list[Atoms]] = []
    n_atoms = _MOST_ATOMS_PER_REQUEST
    for each in systems:
        if not portions or n_atoms + len(each) > _MOST_ATOMS_PER_REQUEST:
            portions.append([])
            n_atoms = 0
        portions[-1].append(each)
        n_atoms += len(each)
    return portions


def _by_species(values: NDArray[np.float64], symbols: Any) -> dict[str, Any]:
    species: Mapping[str, Any] = {
        str(symbol): _sizes(values[symbols == symbol]) for symbol in dict.fromkeys(symbols.tolist())
    }
    return _sizes(values) | {"species": species}


def _sizes(values: NDArray[np.float64]) -> dict[str, float]:
    """Return the mean absolute value and the root mean square."""
    return {
        "mae": float(np.abs(values).mean()),
        "rmse": float(np.sqrt(np.square(values).mean())),
    }
