"""Lennard-Jones, damped to zero at the cutoff, with a direct force whose error is known."""

from dataclasses import dataclass

import torch

from twinforce_models.potentials.toys.pairwise import PairPotential, Values, envelope, times


@dataclass(frozen=True, slots=True)
class Dispersion:
    """V(u) = 4 ε (σ¹²/u⁶ - σ⁶/u³) (1 - u/r_c²)³.

    Attributes:
        epsilon: ε, in eV.
        sigma: σ, in Å.
        cutoff: r_c, in Å.
    """

    epsilon: float
    sigma: float
    cutoff: float

    def terms(self, u: Values) -> tuple[Values, Values, Values]:
        """Return V and its first two derivatives with respect to u."""
        scale = 4.0 * self.epsilon
        six = self.sigma**6 / u**3
        bare = (
            scale * (six**2 - six),
            scale * (3.0 * six - 6.0 * six**2) / u,
            scale * (42.0 * six**2 - 12.0 * six) / u**2,
        )
        return times(bare, envelope(u, self.cutoff))


def lennard_jones(
    epsilon: float = 0.0104,
    sigma: float = 3.4,
    cutoff: float = 7.0,
    swirl: float = 0.002,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> PairPotential:
    """Return Lennard-Jones atoms as a potential; the default parameters describe argon.

    Args:
        epsilon: ε, in eV.
        sigma: σ, in Å.
        cutoff: In Å.
        swirl: Strength of the error of the direct force, in eV/Å².
        dtype: Data type to compute in.
        device: Device to compute on.
    """
    return PairPotential(
        Dispersion(epsilon, sigma, cutoff),
        cutoff,
        swirl,
        dtype=dtype,
        device=torch.device(device),
    )
