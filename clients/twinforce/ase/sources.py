"""The predictions that drive the dynamics: from a service, or from any calculator of ASE."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes, compare_atoms, equal
from ase.stress import voigt_6_to_full_3x3_stress

from twinforce._systems import labels_in, labels_of, system_of
from twinforce._weights import ServedWeights
from twinforce.ase.calculator import TwinForceCalculator
from twinforce_dynamics.steps import Floats, ForceFunction
from twinforce_proto import OUTPUTS, Prediction

# Properties of ASE that count as conservative, for calculators with one kind of forces only.
_NAMES_IN_ASE = {"conservative_forces": "forces", "conservative_stress": "stress"}


class ForceSource(Protocol):
    """A source of predictions for given atoms at changing coordinates."""

    outputs: frozenset[str]
    """Outputs that the source can compute."""
    metadata: Mapping[str, Any]
    """Metadata of the model."""
    weights: ServedWeights | None
    """Weights of the model, if they are known."""

    def is_for(self, atoms: Atoms) -> bool:
        """Return True if predictions are those of these atoms, at whatever coordinates.

        They are not if species, periodicity, charge, spin, the calculator or its model changed.
        """

    def force_function(self, outputs: frozenset[str]) -> ForceFunction:
        """Return a function that computes these outputs for given positions and cell."""

    def adopt(self, atoms: Atoms, prediction: Prediction) -> None:
        """Store a prediction as the results of the atoms' calculator."""


def force_source_of(atoms: Atoms) -> ForceSource:
    """Return the source that uses the calculator of these atoms."""
    if isinstance(atoms.calc, TwinForceCalculator):
        return ServiceSource(atoms, atoms.calc)
    if atoms.calc is None:
        raise ValueError("atoms: expected a calculator, got none")
    return CalculatorSource(atoms, atoms.calc)


class ServiceSource:
    """A service, reached over the stream of a `TwinForceCalculator`; only coordinates are sent."""

    def __init__(self, atoms: Atoms, calculator: TwinForceCalculator) -> None:
        info = calculator.info
        self._calculator = calculator
        self._labels = labels_of(atoms)
        self._system = system_of(atoms.copy())  # whose arrays nobody changes
        self.outputs = frozenset(info.outputs)
        self.metadata = info.metadata
        self.weights: ServedWeights | None = calculator.weights

    def is_for(self, atoms: Atoms) -> bool:
        """Return True if predictions are those of these atoms, at whatever coordinates."""
        return (
            atoms.calc is self._calculator
            and np.array_equal(atoms.numbers, self._system.atomic_numbers)
            and np.array_equal(atoms.pbc, self._system.pbc)
            and labels_of(atoms) == self._labels
            and self._calculator.weights == self.weights
        )

    def force_function(self, outputs: frozenset[str]) -> ForceFunction:
        """Return a function that computes these outputs for given positions and cell."""

        def evaluate(positions: Floats, cell: Floats) -> Prediction:
            prediction = self._calculator.evaluate(self._system.moved(positions, cell), outputs)
            self._check(prediction)
            return prediction

        return evaluate

    def adopt(self, atoms: Atoms, prediction: Prediction) -> None:
        """Store a prediction as the results of the atoms' calculator."""
        self._calculator.adopt(atoms, prediction)

    def _check(self, prediction: Prediction) -> None:
        """Raise unless the weights are those of earlier predictions, even if others are allowed."""
        if prediction.provenance is None or self.weights is None:
            return
        if (found := ServedWeights.of(prediction.provenance)) != self.weights:
            raise self.weights.changed_to(found, "in the middle of a step", "evaluate all anew")


class CalculatorSource:
    """Any calculator of ASE with properties named like our outputs.

    Its `forces` and `stress` count as conservative, unless it has `conservative_forces` and
    `conservative_stress`.
    """

    def __init__(self, atoms: Atoms, calculator: Any) -> None:
        self._calculator = calculator
        self._atoms = atoms.copy()
        self._parameters = _kept(_parameters_of(calculator))
        offered = set(calculator.implemented_properties)
        self._names = {
            output: name
            for output in OUTPUTS
            for name in (_NAMES_IN_ASE.get(output, output), output)  # the last one wins
            if name in offered
        }
        self.outputs = frozenset(self._names)
        self.metadata: Mapping[str, Any] = {}
        self.weights: ServedWeights | None = None

    def is_for(self, atoms: Atoms) -> bool:
        """Return True if predictions are those of these atoms, at whatever coordinates."""
        return (
            atoms.calc is self._calculator
            and not compare_atoms(self._atoms, atoms, excluded_properties=["positions", "cell"])
            and equal(labels_in(atoms), labels_in(self._atoms))
            and equal(_parameters_of(self._calculator), self._parameters)
        )

    def force_function(self, outputs: frozenset[str]) -> ForceFunction:
        """Return a function that computes these outputs for given positions and cell."""
        names = {output: self._names[output] for output in sorted(outputs)}

        def evaluate(positions: Floats, cell: Floats) -> Prediction:
            self._atoms.arrays["positions"][:] = positions
            self._atoms.cell[:] = cell
            self._calculator.calculate(self._atoms, list(names.values()), all_changes)
            results = self._calculator.results
            return Prediction(
                **{output: _copied(output, results[name]) for output, name in names.items()}
            )

        return evaluate

    def adopt(self, atoms: Atoms, prediction: Prediction) -> None:
        """Do nothing: the calculator holds the results of its last evaluation."""


def _parameters_of(calculator: Any) -> dict[str, Any]:
    return dict(getattr(calculator, "parameters", None) or {})


def _kept(value: Any) -> Any:
    """Return a value with copies of the containers in it, which may be changed in place."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {name: _kept(each) for name, each in value.items()}
    return [_kept(each) for each in value] if type(value) is list else value


def _copied(output: str, value: Any) -> Any:
    if output == "energy":
        return float(value)
    array = value.copy()
    return voigt_6_to_full_3x3_stress(array) if array.shape == (6,) else array
