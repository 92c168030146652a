"""How far apart the two forces of a system are: large where a model is out of its depth."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from twinforce_proto import Prediction, System


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Root mean squares of the components of conservative less direct forces, in eV/Å.

    Attributes:
        rmse: Over all atoms of a system.
        by_element: Over those of one element, under its atomic number.
    """

    rmse: float
    by_element: Mapping[int, float]


def disagreements(systems: Iterable[System], answers: Iterable[object]) -> tuple[Disagreement, ...]:
    """Return the disagreement of each system that both kinds of forces were predicted for.

    Args:
        systems: In the order of the answers.
        answers: Predictions, or errors, which are passed over.
    """
    found = (
        _disagreement(system, answer)
        for system, answer in zip(systems, answers, strict=True)
        if isinstance(answer, Prediction)
    )
    return tuple(each for each in found if each is not None)


def _disagreement(system: System, prediction: Prediction) -> Disagreement | None:
    if prediction.conservative_forces is None or prediction.direct_forces is None:
        return None
    difference = prediction.conservative_forces - prediction.direct_forces
    squares = np.einsum("ij,ij->i", difference, difference) / 3
    counts = np.bincount(system.atomic_numbers)
    elements = counts.nonzero()[0]
    sums = np.bincount(system.atomic_numbers, squares)
    rmse = np.sqrt(sums[elements] / counts[elements])
    by_element = dict(zip(elements.tolist(), rmse.tolist(), strict=True))
    return Disagreement(float(np.sqrt(squares.mean())), by_element)
