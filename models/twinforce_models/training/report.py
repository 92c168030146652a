"""The errors of a trained potential on test systems."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ase
import numpy as np
from ase.data import chemical_symbols
from ase.units import GPa
from numpy.typing import NDArray

from twinforce_models.nonconservativity import direct_jacobian, nonconservativity
from twinforce_models.potential import Potential
from twinforce_models.prediction import predict
from twinforce_models.training.dataset import Group, to_system
from twinforce_proto import Prediction

QUANTITIES = ("energy", "conservative_forces", "direct_forces")
STRESSES = ("conservative_stress", "direct_stress")
# Quantity -> name of its unit in `errors`, and its factor from eV and Å.
_UNITS = {
    "energy": ("mev_per_atom", 1e3),
    "conservative_forces": ("mev_per_angstrom", 1e3),
    "direct_forces": ("mev_per_angstrom", 1e3),
    "conservative_stress": ("gpa", 1 / GPa),
    "direct_stress": ("gpa", 1 / GPa),
}


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The labels and the predictions of a quantity, with the same shape; energies per atom."""

    labels: NDArray[np.float64]
    predictions: NDArray[np.float64]

    @property
    def mae(self) -> float:
        """Mean absolute error."""
        return float(np.abs(self.predictions - self.labels).mean())

    @property
    def rmse(self) -> float:
        """Root mean square error."""
        return float(np.sqrt(np.square(self.predictions - self.labels).mean()))


def predict_each(potential: Potential, examples: Sequence[ase.Atoms]) -> list[Prediction]:
    """Return the prediction of each example, with stresses for examples that have one."""
    predictions = []
    for example in examples:
        outputs = QUANTITIES + (STRESSES if has_stress(example) else ())
        predictions += predict(potential, [to_system(example)], outputs)
    return predictions


def compare(
    examples: Sequence[ase.Atoms], predictions: Sequence[Prediction]
) -> dict[str, Comparison]:
    """Return the labels and predictions of each quantity, in eV and Å; energies per atom.

    Stresses are compared for examples that have one, and left out if none has.
    """
    pairs = list(zip(examples, predictions, strict=True))
    comparisons = {
        "energy": Comparison(
            np.array([example.get_potential_energy() / len(example) for example in examples]),
            np.array([p.energy / len(example) for example, p in pairs if p.energy is not None]),
        )
    }
    forces = np.concatenate([example.get_forces() for example in examples])
    for name in QUANTITIES[1:]:
        values = np.concatenate([getattr(p, name) for p in predictions])
        comparisons[name] = Comparison(forces, values)
    labeled = [(example, p) for example, p in pairs if has_stress(example)]
    for name in STRESSES if labeled else ():
        labels = np.stack([example.get_stress(voigt=False) for example, _ in labeled])
        comparisons[name] = Comparison(labels, np.stack([getattr(p, name) for _, p in labeled]))
    return comparisons


def errors_of(comparisons: Mapping[str, Comparison]) -> dict[str, float]:
    """Return mean absolute and root mean square errors, in meV/atom, meV/Å and GPa."""
    errors = {}
    for name, comparison in comparisons.items():
        unit, factor = _UNITS[name]
        errors[f"{name}_mae_{unit}"] = factor * comparison.mae
        errors[f"{name}_rmse_{unit}"] = factor * comparison.rmse
    return errors


def change_of(groups: Sequence[Group], predictions: Sequence[Prediction]) -> dict[str, float]:
    """Return the error of the change of direct forces between twins, root mean square, in meV/Å.

    Args:
        groups: Examples, with their twins.
        predictions: Prediction of each example, in the same order.

    Returns:
        Empty if no example has a twin.
    """
    errors = [
        np.asarray(p.direct_forces) - example.get_forces()
        for example, p in zip(
            (each for group in groups for each in group), predictions, strict=True
        )
    ]
    firsts = np.cumsum([0, *map(len, groups)])[:-1]
    changes = [
        errors[first + 1] - errors[first]
        for first, group in zip(firsts, groups, strict=True)
        if len(group) == 2
    ]
    if not changes:
        return {}
    square = np.square(np.concatenate(changes)).mean()
    return {"direct_forces_change_rmse_mev_per_angstrom": 1e3 * float(np.sqrt(square))}


def errors_by_elements(
    examples: Sequence[ase.Atoms], predictions: Sequence[Prediction]
) -> dict[str, dict[str, float]]:
    """Return `errors_of` by the elements of the examples, with keys such as "HO" or "Cu"."""
    groups: dict[str, list[int]] = {}
    for n, example in enumerate(examples):
        groups.setdefault("".join(sorted(set(example.get_chemical_symbols()))), []).append(n)
    errors = {}
    for symbols, group in sorted(groups.items()):
        comparisons = compare([examples[n] for n in group], [predictions[n] for n in group])
        errors[symbols] = {"n_test_systems": float(len(group))} | errors_of(comparisons)
    return errors


def force_disagreement(
    examples: Sequence[ase.Atoms], predictions: Sequence[Prediction]
) -> dict[str, dict[str, float]]:
    """Return the difference between direct and conservative forces for each element, in eV/Å.

    Returns:
        Symbol -> "mean" and "max" over the examples of the root mean square over its atoms.
    """
    seen: dict[str, list[float]] = {}
    for example, p in zip(examples, predictions, strict=True):
        difference = np.asarray(p.direct_forces) - np.asarray(p.conservative_forces)
        squares = np.square(difference).mean(axis=1)
        for number in np.unique(example.numbers):
            rms = float(np.sqrt(squares[example.numbers == number].mean()))
            seen.setdefault(chemical_symbols[number], []).append(rms)
    return {
        symbol: {"mean": float(np.mean(values)), "max": max(values)}
        for symbol, values in sorted(seen.items())
    }


def nonconservativity_of(potential: Potential, examples: Sequence[ase.Atoms]) -> dict[str, float]:
    """Return λ of the direct forces, from up to ten evenly spaced examples."""
    chosen = examples[:: max(len(examples) // 10, 1)][:10]
    values = [
        nonconservativity(direct_jacobian(potential, to_system(example))) for example in chosen
    ]
    return {
        "nonconservativity_mean": float(np.mean(values)),
        "nonconservativity_max": float(np.max(values)),
        "n_nonconservativity_systems": float(len(values)),
    }


def title(name: str) -> str:
    """Return the title of a plot of a comparison."""
    unit = "eV/Å³" if name in STRESSES else "eV/atom" if name == "energy" else "eV/Å"
    return f"{name.replace('_', ' ')}, {unit}"


def has_stress(example: ase.Atoms) -> bool:
    """Return True if the example has a stress among its labels."""
    return example.calc is not None and "stress" in example.calc.results
