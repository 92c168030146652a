"""How far conservative and direct forces are apart while a simulation runs."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from twinforce_dynamics.elements import SYMBOLS
from twinforce_dynamics.steps import Floats, State
from twinforce_proto import Prediction, System


class ForceDisagreementWarning(UserWarning):
    """Both forces are further apart than on any system that the model was tested on."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Of both forces at the end of an outer step.

    Attributes:
        rmse: Root mean square over all atoms and components of (conservative - direct), in eV/Å.
        species_rmse: The same for each species alone, by its symbol.
        work: What the impulses of the correction put in during the step, in eV.
        total_work: The same since the start, in eV.
    """

    rmse: float
    species_rmse: Mapping[str, float]
    work: float
    total_work: float


@dataclass(frozen=True, slots=True, eq=False)
class Species:
    """Which atoms are of which species.

    Attributes:
        symbols: Of each species, in the order of the atomic numbers.
        indices: Of the species of each atom, shape [n_atoms].
    """

    symbols: tuple[str, ...]
    indices: NDArray[np.intp]

    @classmethod
    def of(cls, atomic_numbers: NDArray[np.integer]) -> Self:
        """Return those of atoms, in the order of their atomic numbers."""
        numbers, indices = np.unique(atomic_numbers, return_inverse=True)
        return cls(tuple(SYMBOLS[each - 1] for each in numbers), indices)

    @property
    def masks(self) -> tuple[Floats, ...]:
        """1 for the atoms of each species and 0 for others, each of shape [n_atoms, 1]."""
        chosen = range(len(self.symbols))
        return tuple((self.indices == each).astype(np.float64)[:, None] for each in chosen)

    def rmse(self, difference: Floats) -> tuple[float, dict[str, float]]:
        """Return the root mean square of all components, and that of each species."""
        squares = np.einsum("ij,ij->i", difference, difference)
        sums = np.bincount(self.indices, squares, len(self.symbols))
        counts = 3 * np.bincount(self.indices, minlength=len(self.symbols))
        each = np.sqrt(sums / counts)
        whole = math.sqrt(sums.sum() / counts.sum())
        return whole, dict(zip(self.symbols, each.tolist(), strict=True))


def disagreement_of(species: Species, state: State, work_before: float) -> Disagreement:
    """Return how far both forces of a state are apart.

    Args:
        species: Of the atoms.
        state: With a prediction of both forces.
        work_before: The work of the correction up to the outer step before, in eV.
    """
    prediction = state.prediction
    assert prediction.conservative_forces is not None
    assert prediction.direct_forces is not None
    difference = prediction.conservative_forces - prediction.direct_forces
    work = state.correction_work - work_before
    return Disagreement(*species.rmse(difference), work, state.correction_work)


def exceeded(disagreement: Disagreement, metadata: Mapping[str, Any]) -> str | None:
    """Say where forces are further apart than on the systems that the model was tested on.

    Args:
        disagreement: Seen now.
        metadata: Of the model. Its `force_disagreement` gives "max", in eV/Å, for each species,
            such as {"H": {"mean": 0.03, "max": 0.05}}.

    Returns:
        A sentence, or None where all is well or nothing is known.
    """
    known = metadata.get("force_disagreement", {})
    parts = [
        f"{symbol} {rmse:.3f} eV/Å (at most {known[symbol]['max']:.3f} in testing)"
        for symbol, rmse in disagreement.species_rmse.items()
        if symbol in known and rmse > known[symbol]["max"]
    ]
    return f"direct and conservative forces differ by {', '.join(parts)}" if parts else None


@dataclass(frozen=True, slots=True)
class SystemDisagreement:
    """Root mean squares of the components of conservative less direct forces, in eV/Å.

    Attributes:
        rmse: Over all atoms of a system.
        by_element: Over those of one element, under its atomic number.
    """

    rmse: float
    by_element: Mapping[int, float]


def disagreements(
    systems: Iterable[System], answers: Iterable[object]
) -> tuple[SystemDisagreement, ...]:
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


def _disagreement(system: System, prediction: Prediction) -> SystemDisagreement | None:
    if prediction.conservative_forces is None or prediction.direct_forces is None:
        return None
    difference = prediction.conservative_forces - prediction.direct_forces
    squares = np.einsum("ij,ij->i", difference, difference) / 3
    counts = np.bincount(system.atomic_numbers)
    elements = counts.nonzero()[0]
    sums = np.bincount(system.atomic_numbers, squares)
    rmse = np.sqrt(sums[elements] / counts[elements])
    by_element = dict(zip(elements.tolist(), rmse.tolist(), strict=True))
    return SystemDisagreement(float(np.sqrt(squares.mean())), by_element)
