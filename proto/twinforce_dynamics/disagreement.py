"""The disagreement between conservative and direct forces."""

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
    """The two kinds of forces differ more than on any system that the model was tested on."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """The disagreement at the end of an outer step of a trajectory.

    Attributes:
        rmse: Root mean square over all atoms and components of (conservative - direct), in eV/Å.
        species_rmse: The same for the atoms of each species, by chemical symbol.
        work: Work that the impulses of the correction did during the step, in eV.
        total_work: Work that they did since the start, in eV.
    """

    rmse: float
    species_rmse: Mapping[str, float]
    work: float
    total_work: float


@dataclass(frozen=True, slots=True)
class SystemDisagreement:
    """The disagreement for one predicted system, by element.

    Attributes:
        rmse: Root mean square over all atoms and components of (conservative - direct), in eV/Å.
        by_element: The same for the atoms of each element, by atomic number.
    """

    rmse: float
    by_element: Mapping[int, float]


@dataclass(frozen=True, slots=True, eq=False)
class Species:
    """The chemical species of a system.

    Attributes:
        symbols: Chemical symbol of each species, in the order of their atomic numbers.
        indices: Index into `symbols` of each atom, shape [n_atoms].
    """

    symbols: tuple[str, ...]
    indices: NDArray[np.intp]

    @classmethod
    def of(cls, atomic_numbers: NDArray[np.integer]) -> Self:
        """Return the species of atoms with these atomic numbers."""
        numbers, indices = np.unique(atomic_numbers, return_inverse=True)
        return cls(tuple(SYMBOLS[number - 1] for number in numbers), indices)


def disagreement_of(species: Species, state: State, work_before: float) -> Disagreement:
    """Return the disagreement of a state.

    Args:
        species: Species of the atoms.
        state: State with a prediction of both forces.
        work_before: Work of the correction up to the previous outer step, in eV.
    """
    difference = _difference(state.prediction)
    assert difference is not None
    rmse, _, species_rmse = _rmse(difference, species.indices)
    return Disagreement(
        rmse,
        dict(zip(species.symbols, species_rmse.tolist(), strict=True)),
        state.correction_work - work_before,
        state.correction_work,
    )


def disagreements(
    systems: Iterable[System], answers: Iterable[object]
) -> tuple[SystemDisagreement, ...]:
    """Return the disagreement for each system that both kinds of forces were predicted for.

    Args:
        systems: Systems in the order of the answers.
        answers: Predictions, or errors, which are skipped.
    """
    return tuple(
        _system_disagreement(system, difference)
        for system, answer in zip(systems, answers, strict=True)
        if isinstance(answer, Prediction) and (difference := _difference(answer)) is not None
    )


def exceeded(disagreement: Disagreement, metadata: Mapping[str, Any]) -> str | None:
    """Describe the species whose forces differ more than on any system in the model's tests.

    Args:
        disagreement: Current disagreement.
        metadata: Metadata of the model. Its `force_disagreement` holds "max", in eV/Å, for each
            species, such as {"H": {"mean": 0.03, "max": 0.05}}.

    Returns:
        A sentence, or None if no species exceeds its maximum or none is known.
    """
    known = metadata.get("force_disagreement", {})
    parts = [
        f"{symbol} {rmse:.3f} eV/Å (at most {known[symbol]['max']:.3f} in testing)"
        for symbol, rmse in disagreement.species_rmse.items()
        if symbol in known and rmse > known[symbol]["max"]
    ]
    return f"direct and conservative forces differ by {', '.join(parts)}" if parts else None


def _difference(prediction: Prediction) -> Floats | None:
    """Return conservative minus direct forces, or None unless both were predicted."""
    if prediction.conservative_forces is None or prediction.direct_forces is None:
        return None
    return prediction.conservative_forces - prediction.direct_forces


def _system_disagreement(system: System, difference: Floats) -> SystemDisagreement:
    rmse, elements, element_rmse = _rmse(difference, system.atomic_numbers)
    by_element = dict(zip(elements.tolist(), element_rmse.tolist(), strict=True))
    return SystemDisagreement(rmse, by_element)


def _rmse(difference: Floats, kinds: NDArray[np.integer]) -> tuple[float, NDArray[np.intp], Floats]:
    """Return root mean squares over components.

    Args:
        difference: Shape [n_atoms, 3].
        kinds: Nonnegative number of the kind of each atom, shape [n_atoms].

    Returns:
        The root mean square over all atoms, the kinds that occur, in ascending order, and the root
        mean square over the atoms of each of these kinds.
    """
    squares = np.einsum("ij,ij->i", difference, difference)
    counts = 3 * np.bincount(kinds)
    present = counts.nonzero()[0]
    sums, counts = np.bincount(kinds, squares)[present], counts[present]
    return math.sqrt(sums.sum() / counts.sum()), present, np.sqrt(sums / counts)
