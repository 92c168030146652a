"""The distance of forces from a gradient: request, reply, and norms of a Jacobian."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinforce_proto.errors import InvalidRequestError
from twinforce_proto.outputs import FORCES
from twinforce_proto.prediction import Provenance, Timings
from twinforce_proto.system import System


@dataclass(frozen=True, slots=True)
class NonconservativityRequest:
    """Ask how far the forces of a system are from being a gradient.

    Attributes:
        model: The name of the model.
        system: Evaluated alone.
        output: Which forces: one of `FORCES`.
        pairs: Whether the norms of each pair of atoms are wanted too.

    Raises:
        InvalidRequestError: The output is no forces.
    """

    model: str
    system: System
    output: str = FORCES[0]
    pairs: bool = False

    def __post_init__(self) -> None:
        if self.output not in FORCES:
            expected = " or ".join(FORCES)
            text = f"output: expected {expected}, got {self.output!r}"
            raise InvalidRequestError(text, field="output")


@dataclass(frozen=True, slots=True, eq=False)
class Nonconservativity:
    """How far forces f are from being a gradient.

        λ = ‖(J - Jᵀ)/2‖ / ‖J‖        J = ∂f/∂r, Frobenius norms

    Attributes:
        value: λ: 0 for a gradient, and where the forces are the same everywhere; 1 for a field
            without any conservative part.
        jacobian_norm: ‖J‖, in eV/Å².
        antisymmetric_norm: ‖(J - Jᵀ)/2‖, in eV/Å².
        pair_norms: Of the 3 x 3 block of J of each pair of atoms, shape [n_atoms, n_atoms], in
            eV/Å²: rows are whose force, columns whose position. None unless asked for.
        antisymmetric_pair_norms: Likewise of (J - Jᵀ)/2.
        provenance: What made it.
        timings: Where the time went, all passes together.
    """

    value: float
    jacobian_norm: float
    antisymmetric_norm: float
    pair_norms: NDArray[np.float64] | None = None
    antisymmetric_pair_norms: NDArray[np.float64] | None = None
    provenance: Provenance | None = None
    timings: Timings | None = None


def measure(jacobian: NDArray[np.float64], *, pairs: bool = False) -> Nonconservativity:
    """Return λ and the norms it is made of.

    Args:
        jacobian: Shape [3 n_atoms, 3 n_atoms], in eV/Å².
        pairs: Whether the norms of each pair of atoms are wanted too.
    """
    antisymmetric = (jacobian - jacobian.T) / 2
    whole, part = float(np.linalg.norm(jacobian)), float(np.linalg.norm(antisymmetric))
    return Nonconservativity(
        value=part / whole if whole else 0.0,
        jacobian_norm=whole,
        antisymmetric_norm=part,
        pair_norms=_pair_norms(jacobian) if pairs else None,
        antisymmetric_pair_norms=_pair_norms(antisymmetric) if pairs else None,
    )


def _pair_norms(jacobian: NDArray[np.float64]) -> NDArray[np.float64]:
    n_atoms = len(jacobian) // 3
    blocks = np.square(jacobian).reshape(n_atoms, 3, n_atoms, 3)
    norms: NDArray[np.float64] = np.sqrt(blocks.sum(axis=(1, 3)))
    return norms
