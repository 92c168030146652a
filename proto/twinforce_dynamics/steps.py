"""Steps as generators that yield the evaluations they need, and the state between steps."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from twinforce_proto import Prediction

Floats = NDArray[np.float64]

# A kind of forces, and the forces that drive a run: one kind or, for multiple time stepping, both.
Kind = Literal["conservative", "direct"]
ForceChoice = Literal["conservative", "direct", "hybrid"]

# A function of positions [n_atoms, 3] in Å and a cell [3, 3] in Å that evaluates the potential.
ForceFunction = Callable[[Floats, Floats], Prediction]

_T = TypeVar("_T")


def is_number_of_steps(number: object) -> bool:
    """Return True for whole numbers from 1 on."""
    if isinstance(number, bool) or not isinstance(number, int | np.integer):
        return False
    return int(number) >= 1


def check_inner_steps(inner_steps: object) -> None:
    """Check a number of inner steps per outer step.

    Raises:
        ValueError: It is not a whole number, or below 1.
    """
    if not is_number_of_steps(inner_steps):
        raise ValueError(f"inner_steps: expected a whole number, at least 1, got {inner_steps!r}")


@dataclass(frozen=True, slots=True, eq=False)
class NeededEvaluation:
    """An evaluation of the potential that a step needs before it can continue.

    Attributes:
        positions: Shape [n_atoms, 3], in Å.
        cell: Lattice vectors as rows, shape [3, 3], in Å.
        is_outer: True at the end of an outer step, which needs all outputs; False at the end of an
            inner step, which needs only the cheap ones.
    """

    positions: Floats
    cell: Floats
    is_outer: bool


# A generator that yields evaluations, is sent their predictions, and returns the result.
Steps = Generator[NeededEvaluation, Prediction, _T]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The state of a trajectory: everything that the next step needs.

    Attributes:
        positions: Shape [n_atoms, 3], in Å.
        momenta: Shape [n_atoms, 3].
        cell: Lattice vectors as rows, shape [3, 3], in Å.
        prediction: Prediction of the potential for these positions and this cell.
        supplied: Energy that the thermostat and the barostat have supplied, in eV.
        correction_work: Work that the impulses of (conservative - direct) forces have done, in eV.
    """

    positions: Floats
    momenta: Floats
    cell: Floats
    prediction: Prediction
    supplied: float = 0.0
    correction_work: float = 0.0

    def check(self, n_atoms: int, outputs: Iterable[str]) -> None:
        """Check that all numbers that the next step needs are there, finite and in shape.

        Args:
            n_atoms: Number of atoms.
            outputs: Outputs that the prediction must have.

        Raises:
            ValueError: One is not; the message names it.
        """
        for name in ("positions", "momenta"):
            _check_array(name, getattr(self, name), (n_atoms, 3))
        _check_array("cell", self.cell, (3, 3))
        for output in sorted(outputs):
            shapes = {"energy": (), "atom_energies": (n_atoms,)}
            shape = shapes.get(output, (3, 3) if "stress" in output else (n_atoms, 3))
            _check_array(output, getattr(self.prediction, output), shape)
        _check_array("supplied", self.supplied, ())
        _check_array("correction_work", self.correction_work, ())


def complete(steps: Steps[_T], inner: ForceFunction, outer: ForceFunction) -> _T:
    """Run steps to their end and return the result.

    Args:
        steps: Generator to run.
        inner: Function that evaluates inner steps.
        outer: Function that evaluates the ends of outer steps.
    """
    try:
        needed = next(steps)
        while True:
            evaluate = outer if needed.is_outer else inner
            needed = steps.send(evaluate(needed.positions, needed.cell))
    except StopIteration as end:
        return cast(_T, end.value)


def kinetic_energy(momenta: Floats, masses: Floats) -> float:
    """Return Σ p²/2m, in eV."""
    return 0.5 * float(np.vdot(momenta, momenta / masses))


def volume(cell: Floats) -> float:
    """Return the volume of a cell, in Å³."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = cell.tolist()  # faster than numpy for 9 numbers
    return float(
        abs(ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx))
    )


def _check_array(name: str, value: object, shape: tuple[int, ...]) -> None:
    if value is None:
        raise ValueError(f"{name}: expected a value, got none")
    array = np.asarray(value)
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got shape {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got {array[~np.isfinite(array)][0]}")
