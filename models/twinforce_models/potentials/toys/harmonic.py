"""Springs between all pairs of atoms, damped to zero at the cutoff; finite at distance zero."""

from dataclasses import dataclass

import torch

from twinforce_models.potentials.toys.pairwise import PairPotential, Values, envelope, times


@dataclass(frozen=True, slots=True)
class Spring:
    """V(u) = k / (8 r₀²) (u - r₀²)² (1 - u/r_c²)³, which is k/2 (r - r₀)² near r₀.

    Attributes:
        stiffness: k, in eV/Å².
        length: r₀, in Å.
        cutoff: r_c, in Å.
    """

    stiffness: float
    length: float
    cutoff: float

    def terms(self, u: Values) -> tuple[Values, Values, Values]:
        """Return V and its first two derivatives with respect to u."""
        scale = self.stiffness / (8.0 * self.length**2)
        stretch = u - self.length**2
        spring = (scale * stretch**2, 2.0 * scale * stretch, 2.0 * scale + 0.0 * u)
        return times(spring, envelope(u, self.cutoff))


def harmonic(
    stiffness: float = 0.5,
    length: float = 1.5,
    cutoff: float = 5.0,
    swirl: float = 0.02,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> PairPotential:
    """Return springs as a potential whose energy also depends on charge and spin.

    Args:
        stiffness: Stiffness of a spring at rest, in eV/Å².
        length: Length of a spring at rest, in Å.
        cutoff: In Å.
        swirl: Strength of the error of the direct force, in eV/Å².
        dtype: Data type to compute in.
        device: Device to compute on.
    """
    return PairPotential(
        Spring(stiffness, length, cutoff),
        cutoff,
        swirl,
        charge_energy=1.0,
        spin_energy=0.25,
        dtype=dtype,
        device=torch.device(device),
    )
