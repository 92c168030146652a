"""What a Jacobian says of how far forces are from being a gradient; needs no torch."""

import numpy as np
from numpy.typing import NDArray

from twinforce_proto import Nonconservativity


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
