"""How good a trained potential is on systems that it has not seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
from numpy.typing import NDArray

from twinforce_models.nonconservativity import direct_jacobian, nonconservativity
from twinforce_models.potential import Potential, predict
from twinforce_proto import Prediction, System

QUANTITIES = ("energy", "conservative_forces", "direct_forces")


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Labels and predictions of one quantity, of one shape; energies per atom."""

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


def compare(potential: Potential, frames: Sequence[ase.Atoms]) -> dict[str, Comparison]:
    """Return labels beside predictions for energies per atom (eV) and both forces (eV/Å)."""
    predictions = [predict(potential, [to_system(frame)], QUANTITIES)[0] for frame in frames]
    energies = [frame.get_potential_energy() / len(frame) for frame in frames]
    forces = np.concatenate([frame.get_forces() for frame in frames])
    return {
        "energy": Comparison(np.array(energies), _energies_per_atom(predictions, frames)),
        **{
            name: Comparison(forces, np.concatenate([getattr(p, name) for p in predictions]))
            for name in QUANTITIES[1:]
        },
    }


def summarize(
    potential: Potential, comparisons: dict[str, Comparison], frames: Sequence[ase.Atoms]
) -> dict[str, float]:
    """Return errors in meV/atom and meV/Å, and λ of the direct forces, of up to ten frames.

    Args:
        potential: That made the comparisons.
        comparisons: Of `compare`.
        frames: Whose Jacobians give λ, evenly spread.
    """
    errors: dict[str, float] = {"n_test_systems": float(len(frames))}
    for name, comparison in comparisons.items():
        unit = "mev_per_atom" if name == "energy" else "mev_per_angstrom"
        errors[f"{name}_mae_{unit}"] = 1e3 * comparison.mae
        errors[f"{name}_rmse_{unit}"] = 1e3 * comparison.rmse
    chosen = frames[:: max(len(frames) // 10, 1)][:10]
    values = [nonconservativity(direct_jacobian(potential, to_system(frame))) for frame in chosen]
    errors["nonconservativity_mean"] = float(np.mean(values))
    errors["nonconservativity_max"] = float(np.max(values))
    errors["n_nonconservativity_systems"] = float(len(values))
    return errors


def title(name: str) -> str:
    """Return what a picture says above a comparison."""
    return f"{name.replace('_', ' ')}, {'eV/atom' if name == 'energy' else 'eV/Å'}"


def to_system(frame: ase.Atoms) -> System:
    """Return a frame as a system."""
    return System(frame.numbers, frame.positions, frame.cell.array, frame.pbc)


def _energies_per_atom(
    predictions: Sequence[Prediction], frames: Sequence[ase.Atoms]
) -> NDArray[Any]:
    pairs = zip(predictions, frames, strict=True)
    return np.array([p.energy / len(frame) for p, frame in pairs if p.energy is not None])
