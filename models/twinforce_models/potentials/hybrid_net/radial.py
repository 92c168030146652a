"""Functions of the distance between neighbors, which end smoothly at a cutoff."""

import torch
from torch import Tensor


def envelope(x: Tensor) -> Tensor:
    """Return a weight that decreases from 1 at x = 0 to 0 at x >= 1, with two smooth derivatives.

    1 - 28 x⁶ + 48 x⁷ - 21 x⁸, the polynomial of DimeNet (Gasteiger, Groß, Günnemann,
    arXiv 2003.03123, eq. 8).
    """
    x = x.clamp(max=1.0)
    return 1.0 + x**6 * (-28.0 + x * (48.0 - 21.0 * x))


def envelope_slope(x: Tensor) -> Tensor:
    """Return the derivative of `envelope`."""
    x = x.clamp(max=1.0)
    return x**5 * (-168.0 + x * (336.0 - 168.0 * x))


def radial_functions(distances: Tensor, cutoff: float, n_radial: int) -> Tensor:
    """Return Bessel functions sin(nπr/c)/(nπr/c) times `envelope`. Shape [..., n_radial]."""
    n = torch.arange(1, n_radial + 1, dtype=distances.dtype, device=distances.device)
    x = (distances / cutoff).unsqueeze(-1)
    bessel: Tensor = (2.0**0.5) * torch.sin(torch.pi * n * x) / (torch.pi * x)
    return bessel * envelope(x)
