"""The units of dynamics, in those of ASE: eV, Å, amu, and sqrt(amu Å²/eV) for times."""

from collections.abc import Callable
from math import inf, nextafter

# Boltzmann constant in eV/K, from CODATA 2014, as ASE has it.
BOLTZMANN = 8.6173303e-5
# 1 fs in ASE's unit of time, sqrt(amu Å²/eV).
FS = 0.09822694788464063
# 1 bar in eV/Å³.
BAR = 6.241509126e-7


def in_fs(duration: float) -> float:
    """Return a duration in fs, so that `FS` times the number is exactly the given one if possible.

    Args:
        duration: Duration in ASE's unit of time.
    """
    return exact_inverse(lambda fs: fs * FS, duration, duration / FS)


def exact_inverse(convert: Callable[[float], float], value: float, guess: float) -> float:
    """Return a number near the guess that converts to exactly this value, if there is one.

    Checkpoints are decoded and encoded over and over; rounding must not change their numbers.
    """
    near = (guess, nextafter(guess, inf), nextafter(guess, -inf))
    return next((number for number in near if convert(number) == value), guess)
