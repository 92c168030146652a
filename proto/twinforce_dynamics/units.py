"""The units of dynamics, in those of ASE: eV, Å, amu, and sqrt(amu Å²/eV) for times."""

from math import inf, nextafter

# Boltzmann constant in eV/K, from CODATA 2014, as ASE has it.
BOLTZMANN = 8.6173303e-5
# 1 fs in ASE's unit of time, sqrt(amu Å²/eV).
FS = 0.09822694788464063
# 1 bar in eV/Å³.
BAR = 6.241509126e-7


def in_fs(duration: float) -> float:
    """Return a duration in fs, so that `FS` times the number is exactly the given one if possible.

    Checkpoints are decoded and encoded over and over; rounding must not change their numbers.

    Args:
        duration: Duration in ASE's unit of time.
    """
    guess = duration / FS
    near = (guess, nextafter(guess, inf), nextafter(guess, -inf))
    return next((number for number in near if number * FS == duration), guess)
