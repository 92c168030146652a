"""Where the dynamics get predictions from: a service, past ASE, or any calculator of ASE."""

from collections.abc import Mapping
from typing import Any, Protocol

from ase import Atoms
from ase.calculators.calculator import all_changes
from ase.stress import voigt_6_to_full_3x3_stress

from twinforce.ase.calculator import TwinForceCalculator
from twinforce.ase.systems import system_of
from twinforce_dynamics.steps import Floats, ForceFunction
from twinforce_proto import OUTPUTS, Prediction

# What ASE calls conservative forces and stress, where a calculator has one kind only.
_NAMES_IN_ASE = {"conservative_forces": "forces", "conservative_stress": "stress"}


class Source(Protocol):
    """Evaluates moved copies of certain atoms."""

    outputs: frozenset[str]
    """What it can be asked for."""
    metadata: Mapping[str, Any]
    """Of the model."""

    def asking(self, outputs: frozenset[str]) -> ForceFunction:
        """Return a function that evaluates these outputs at positions and a cell."""

    def adopt(self, atoms: Atoms, prediction: Prediction) -> None:
        """Let ASE see a prediction as the results for these atoms."""


def source_of(atoms: Atoms) -> Source:
    """Return where predictions for these atoms come from: their calculator."""
    if isinstance(atoms.calc, TwinForceCalculator):
        return Service(atoms, atoms.calc)
    if atoms.calc is None:
        raise ValueError("atoms: expected a calculator, got none")
    return Local(atoms, atoms.calc)


class Service:
    """A service: only coordinates travel, over the stream of the calculator."""

    def __init__(self, atoms: Atoms, calculator: TwinForceCalculator) -> None:
        self._calculator = calculator
        self._system = system_of(atoms, calculator.info)
        self.outputs = frozenset(calculator.info.outputs)
        self.metadata = calculator.info.metadata

    def asking(self, outputs: frozenset[str]) -> ForceFunction:
        """Return a function that evaluates these outputs at positions and a cell."""

        def evaluate(positions: Floats, cell: Floats) -> Prediction:
            return self._calculator.evaluate(self._system.moved(positions, cell), outputs)

        return evaluate

    def adopt(self, atoms: Atoms, prediction: Prediction) -> None:
        """Let ASE see a prediction as the results for these atoms."""
        self._calculator.adopt(atoms, prediction)


class Local:
    """Any calculator, asked for what it calls by our names; `forces` count as conservative."""

    def __init__(self, atoms: Atoms, calculator: Any) -> None:
        self._calculator = calculator
        self._atoms = atoms.copy()
        offered = set(calculator.implemented_properties)
        self._names = {
            output: name
            for output in OUTPUTS
            for name in (_NAMES_IN_ASE.get(output, output), output)  # ours, where there are both
            if name in offered
        }
        self.outputs = frozenset(self._names)
        self.metadata: Mapping[str, Any] = {}

    def asking(self, outputs: frozenset[str]) -> ForceFunction:
        """Return a function that evaluates these outputs at positions and a cell."""
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
        """Do nothing: the calculator has seen these atoms last."""


def _copied(output: str, value: Any) -> Any:
    if output == "energy":
        return float(value)
    array = value.copy()
    return voigt_6_to_full_3x3_stress(array) if array.shape == (6,) else array
