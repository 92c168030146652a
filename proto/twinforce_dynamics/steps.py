"""Steps as generators of questions, and the state between them."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from twinforce_proto import Prediction

Floats = NDArray[np.float64]


Kind = Literal["conservative", "direct"]


# Positions [n_atoms, 3] in Å and cell [3, 3] in Å -> what the potential says of them.
ForceFunction = Callable[[Floats, Floats], Prediction]


T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What a step needs evaluated before it goes on.

    Attributes:
        positions: Shape [n_atoms, 3], in Å.
        cell: Lattice vectors as rows, shape [3, 3], in Å.
        is_whole: Whether all is wanted that the end of an outer step needs, and not only what an
            inner one does.
    """

    positions: Floats
    cell: Floats
    is_whole: bool


# Yields questions, is sent the predictions that answer them, and returns where that leads.
Steps = Generator[Question, Prediction, T]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Where a walker is, with all that its next step needs.

    Attributes:
        positions: Shape [n_atoms, 3], in Å.
        momenta: Shape [n_atoms, 3].
        cell: Lattice vectors as rows, shape [3, 3], in Å.
        prediction: Of the potential here, both forces.
        supplied: The energy that thermostat and barostat have put in, in eV.
        correction_work: What the impulses of (conservative - direct) have put in, in eV.
    """

    positions: Floats
    momenta: Floats
    cell: Floats
    prediction: Prediction
    supplied: float = 0.0
    correction_work: float = 0.0


def answered(steps: Steps[T], inner: ForceFunction, whole: ForceFunction) -> T:
    """Return where steps lead, their questions answered by these functions."""
    try:
        question = next(steps)
        while True:
            evaluate = whole if question.is_whole else inner
            question = steps.send(evaluate(question.positions, question.cell))
    except StopIteration as end:
        return cast(T, end.value)


def kinetic_energy(momenta: Floats, masses: Floats) -> float:
    """Return Σ p²/2m, in eV."""
    return 0.5 * float(np.vdot(momenta, momenta / masses))


def volume(cell: Floats) -> float:
    """Return that of a cell, in Å³."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = cell.tolist()  # faster than numpy for so few
    return float(
        abs(ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx))
    )


ForceChoice = Literal["conservative", "direct", "hybrid"]
