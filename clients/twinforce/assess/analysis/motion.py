"""Diffusion coefficients and velocity spectra from trajectories."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinforce.assess.analysis.statistics import UNKNOWN, Estimate, Floats, mean_of_independent

# c in cm/fs: a wave number in 1/cm is a frequency in 1/fs divided by this.
_LIGHT_CM_PER_FS = 2.99792458e-5

_N_BLOCKS = 5
# Shorter blocks show vibrations rather than diffusion.
_SHORTEST_BLOCK_PS = 2.0
_TAIL = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """The power spectrum of velocities, the Fourier transform of their autocorrelation.

    Attributes:
        wave_numbers: Wave numbers in 1/cm, shape [n].
        density: Density per 1/cm, normalized to 1, shape [n].
    """

    wave_numbers: Floats
    density: Floats

    @property
    def peak(self) -> float:
        """Wave number of the maximum, in 1/cm."""
        return float(self.wave_numbers[self.density.argmax()])

    @property
    def highest(self) -> float:
        """Highest wave number with more than 5% of the peak density, in 1/cm.

        The threshold excludes the tail that a thermostat produces.
        """
        return float(self.wave_numbers[self.density >= _TAIL * self.density.max()].max())


def diffusion(
    positions: Floats, masses: Floats | None, chosen: NDArray[np.bool_], step_fs: float
) -> Estimate:
    """Return the diffusion coefficient of the chosen atoms, in Å²/ps, by Einstein's relation.

        D = slope of <|r(t) - r(0)|²> / 6

    The slope is taken between a quarter and a half of the length of a block, and the error from
    the scatter of five blocks. There is no correction for the finite size of the system. It is
    unknown if no atom is chosen or the blocks are too short.

    Args:
        positions: Positions in Å, not wrapped into the cell, shape [n_times, n_atoms, 3].
        masses: Masses of the atoms, shape [n_atoms], to remove the motion of the center of mass;
            None to keep it, as fixed atoms hold the system.
        chosen: Mask of the atoms to include, shape [n_atoms].
        step_fs: Time between records, in fs.
    """
    size = len(positions) // _N_BLOCKS
    if size < 8 or not chosen.any():
        return UNKNOWN
    centered = positions
    if masses is not None:
        centered = positions - np.average(positions, axis=1, weights=masses)[:, None]
    recent = centered[len(positions) - size * _N_BLOCKS :, chosen]
    blocks = recent.reshape(_N_BLOCKS, size, -1, 3)
    slopes = [_slope(block, step_fs * 1e-3) for block in blocks]
    mean = mean_of_independent(np.array(slopes) / 6.0)
    is_long = size * step_fs * 1e-3 >= _SHORTEST_BLOCK_PS
    return Estimate(mean.value, mean.error, mean.n_independent, mean.is_reliable and is_long)


def velocity_spectrum(
    velocities: Floats, step_fs: float, window_ps: float = 1.0
) -> Spectrum | None:
    """Return the power spectrum of velocities, averaged over atoms and half-overlapping windows.

    Args:
        velocities: Velocities in any unit, shape [n_times, n_atoms, 3].
        step_fs: Time between records, in fs, which limits the highest frequency to 1/(2 step).
        window_ps: Length of a window, in ps; the resolution is its inverse.

    Returns:
        The spectrum, or None if the trajectory is shorter than a window or nothing moves.
    """
    size = round(window_ps * 1e3 / step_fs)
    if len(velocities) < size or size < 8 or not velocities.any():
        return None
    window = np.hanning(size)[:, None]
    flat = velocities.reshape(len(velocities), -1)
    power = np.zeros(size // 2 + 1)
    for begin in range(0, len(flat) - size + 1, size // 2):
        transformed = np.fft.rfft(flat[begin : begin + size] * window, axis=0)
        power += (np.abs(transformed) ** 2).sum(axis=1)
    wave_numbers = np.fft.rfftfreq(size, step_fs).astype(np.float64) / _LIGHT_CM_PER_FS
    return Spectrum(wave_numbers, power / (power.sum() * wave_numbers[1]))


def overlap(
    wave_numbers: Floats, density: Floats, other_wave_numbers: Floats, other_density: Floats
) -> float:
    """Return the overlap of two spectra: 1 if they are equal, 0 if they have nothing in common.

        ∫ min(a, b) dν        a, b -> spectra, normalized over the wave numbers that both have

    Args:
        wave_numbers: Wave numbers of one spectrum, evenly spaced from 0, in 1/cm, shape [n].
        density: Its density in any unit, shape [n].
        other_wave_numbers: Wave numbers of the other spectrum, shape [m].
        other_density: Its density, shape [m].
    """
    is_common = wave_numbers <= other_wave_numbers[-1]
    one = density[is_common]
    other = np.interp(wave_numbers[is_common], other_wave_numbers, other_density)
    return float(np.minimum(one / one.sum(), other / other.sum()).sum())


def repeatability(velocities: Floats, step_fs: float) -> float | None:
    """Return the overlap of the spectra of both halves of a trajectory; None if it is too short.

    Two independent spectra of the same motion and twice the length overlap more than this.

    Args:
        velocities: Velocities in any unit, shape [n_times, n_atoms, 3].
        step_fs: Time between records, in fs.
    """
    half = len(velocities) // 2
    spectra = [velocity_spectrum(each, step_fs) for each in (velocities[:half], velocities[half:])]
    first, second = spectra
    if first is None or second is None:
        return None
    return overlap(first.wave_numbers, first.density, second.wave_numbers, second.density)


def period_fs(wave_number: float) -> float:
    """Return the period of a vibration, in fs."""
    return 1.0 / (wave_number * _LIGHT_CM_PER_FS)


def wave_number(period_fs: float) -> float:
    """Return the wave number of a vibration with this period, in 1/cm."""
    return 1.0 / (period_fs * _LIGHT_CM_PER_FS)


def _slope(positions: Floats, step_ps: float) -> float:
    """Return the slope of the mean squared displacement, in Å²/ps."""
    size = len(positions)
    lags = np.unique(np.linspace(size // 4, size // 2, 24).astype(int))
    squares = [((positions[lag:] - positions[:-lag]) ** 2).sum(axis=-1).mean() for lag in lags]
    return float(np.polyfit(lags * step_ps, squares, 1)[0])
