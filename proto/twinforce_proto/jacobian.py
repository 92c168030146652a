"""Nonconservativity, the distance of forces from a gradient, from the Jacobian of the forces."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinforce_proto.errors import InvalidRequestError
from twinforce_proto.outputs import FORCES
from twinforce_proto.prediction import Provenance, Timings
from twinforce_proto.system import System


@dataclass(frozen=True, slots=True)
class NonconservativityRequest:
    """A request for the nonconservativity of the forces of one system.

    Attributes:
        model: Name of the model.
        system: System to evaluate.
        output: Forces to differentiate, one of `FORCES`.
        pairs: True to return the norms for each pair of atoms as well.

    Raises:
        InvalidRequestError: The output is not one of `FORCES`.
    """

    model: str
    system: System
    output: str = FORCES[0]
    pairs: bool = False

    def __post_init__(self) -> None:
        if self.output not in FORCES:
            raise InvalidRequestError.expected("output", " or ".join(FORCES), repr(self.output))


@dataclass(frozen=True, slots=True, eq=False)
class Nonconservativity:
    """The distance of forces f from a gradient.

        λ = ‖(J - Jᵀ)/2‖ / ‖J‖        J = ∂f/∂r, Frobenius norms

    Attributes:
        value: λ, which is 0 for a gradient, also if the forces are the same everywhere, and 1 for
            a field without any conservative part.
        jacobian_norm: ‖J‖, in eV/Å².
        antisymmetric_norm: ‖(J - Jᵀ)/2‖, in eV/Å².
        pair_norms: Norms of the 3 x 3 block of J of each pair of atoms, shape [n_atoms, n_atoms],
            in eV/Å². Entry [i, j] is about the force on atom i and the position of atom j. None
            unless requested.
        antisymmetric_pair_norms: The same for (J - Jᵀ)/2.
        provenance: Origin of the result.
        timings: Time that all passes took together.
    """

    value: float
    jacobian_norm: float
    antisymmetric_norm: float
    pair_norms: NDArray[np.float64] | None = None
    antisymmetric_pair_norms: NDArray[np.float64] | None = None
    provenance: Provenance | None = None
    timings: Timings | None = None


def measure(jacobian: NDArray[np.float64], *, pairs: bool = False) -> Nonconservativity:
    """Return λ and the norms that define it.

    Args:
        jacobian: Shape [3 n_atoms, 3 n_atoms], in eV/Å².
        pairs: True to return the norms for each pair of atoms as well.
    """
    antisymmetric = (jacobian - jacobian.T) / 2
    norm = float(np.linalg.norm(jacobian))
    antisymmetric_norm = float(np.linalg.norm(antisymmetric))
    return Nonconservativity(
        value=antisymmetric_norm / norm if norm else 0.0,
        jacobian_norm=norm,
        antisymmetric_norm=antisymmetric_norm,
        pair_norms=_pair_norms(jacobian) if pairs else None,
        antisymmetric_pair_norms=_pair_norms(antisymmetric) if pairs else None,
    )


def _pair_norms(jacobian: NDArray[np.float64]) -> NDArray[np.float64]:
    n_atoms = len(jacobian) // 3
    blocks = np.square(jacobian).reshape(n_atoms, 3, n_atoms, 3)
    norms: NDArray[np.float64] = np.sqrt(blocks.sum(axis=(1, 3)))
    return norms
