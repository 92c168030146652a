"""Tests of diffusion, spectra and radial distributions on motion with known answers."""

import math

import numpy as np
import pytest

from twinforce.assess.analysis.motion import (
    diffusion,
    overlap,
    period_fs,
    repeatability,
    velocity_spectrum,
)
from twinforce.assess.analysis.radial import largest_distance, radial_distributions
from twinforce.assess.units.start import expected_temperature_shifts
from twinforce.md import MDSettings


def test_brownian_motion_has_its_diffusion_coefficient():
    rng, step_ps, d = np.random.default_rng(0), 0.02, 0.23
    steps = rng.normal(scale=math.sqrt(2 * d * step_ps), size=(1500, 200, 3))
    positions = np.cumsum(steps, axis=0)
    chosen = np.arange(200) < 150
    found = diffusion(positions, np.ones(200), chosen, 1e3 * step_ps)
    assert found.is_reliable
    assert found.error < 0.1 * d
    assert found.value == pytest.approx(d, abs=3 * found.error)


def test_translation_of_the_whole_system_is_not_diffusion():
    drift = np.linspace(0, 50, 1000)[:, None, None] * np.ones((1, 10, 3))
    found = diffusion(drift, np.arange(1.0, 11.0), np.ones(10, bool), 20.0)
    assert found.value == pytest.approx(0.0, abs=1e-10)


def test_a_short_trajectory_gives_no_reliable_diffusion():
    positions = np.random.default_rng(0).standard_normal((60, 5, 3)).cumsum(axis=0)
    assert not diffusion(positions, np.ones(5), np.ones(5, bool), 20.0).is_reliable
    assert math.isnan(diffusion(positions[:20], np.ones(5), np.ones(5, bool), 20.0).value)


def test_a_vibration_peaks_at_its_frequency():
    period = 9.8
    times = np.arange(0.0, 4000.0, 2.0)
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, (4, 3))
    velocities = np.cos(2 * np.pi * times[:, None, None] / period + phases)
    spectrum = velocity_spectrum(velocities, 2.0)
    resolution = spectrum.wave_numbers[1]
    assert spectrum.peak == pytest.approx(1e13 / (2.99792458e8 * period), abs=resolution)
    assert period_fs(spectrum.peak) == pytest.approx(period, rel=0.01)
    assert spectrum.density.sum() * resolution == pytest.approx(1.0)
    assert spectrum.highest == pytest.approx(spectrum.peak, abs=3 * resolution)
    assert velocity_spectrum(velocities[:100], 2.0) is None


def test_spectra_overlap_by_the_area_that_they_share():
    coarse, fine = np.arange(0.0, 4001.0, 40.0), np.arange(0.0, 3001.0, 20.0)
    flat, box = np.ones(101), np.where(fine <= 1500.0, 3.0, 0.0)
    assert overlap(fine, box, fine, 5 * box) == pytest.approx(1.0)
    assert overlap(fine, box, coarse, flat) == pytest.approx(0.5, abs=0.01)
    assert overlap(coarse, flat, fine, box) == pytest.approx(0.5, abs=0.02)
    assert overlap(fine, box, fine, np.where(fine > 1500.0, 1.0, 0.0)) == 0.0


def test_a_longer_trajectory_repeats_its_spectrum_better():
    rng = np.random.default_rng(2)
    velocities = rng.standard_normal((40_000, 6, 3))  # white noise: a flat spectrum
    short, long = (repeatability(velocities[:n], 2.0) for n in (2_000, 40_000))
    assert 0.8 < short < long < 1.0
    assert long > 0.95
    assert repeatability(velocities[:900], 2.0) is None


def test_an_ideal_gas_has_no_structure():
    cell = np.array([[12.0, 0, 0], [3.0, 11.0, 0], [-2.0, 1.0, 13.0]])
    rng = np.random.default_rng(1)
    positions = rng.uniform(-1, 2, (60, 120, 3)) @ cell
    symbols = np.array(["Ne"] * 70 + ["Ar"] * 50)
    found = radial_distributions(positions, cell, symbols, bin_width=0.25)
    assert set(found) == {"Ar-Ar", "Ar-Ne", "Ne-Ne"}
    for radial in found.values():
        assert radial.distances[-1] < largest_distance(cell)
        far = radial.distances > 1.5
        scatter = np.sqrt(np.mean((radial.values[far] - 1) ** 2))
        assert scatter == pytest.approx(np.sqrt(np.mean(radial.errors[far] ** 2)), rel=0.5)
        assert radial.values[far] == pytest.approx(1.0, abs=0.15)


def test_a_crystal_has_six_nearest_neighbors_at_the_lattice_spacing():
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3) * 3.0
    (radial,) = radial_distributions(
        np.repeat(grid[None], 10, axis=0), 12.0 * np.eye(3), np.array(["Ar"] * 64), 0.1
    ).values()
    shell = (radial.distances > 2.7) & (radial.distances < 3.3)
    volumes = 4 * np.pi * radial.distances**2 * 0.1
    n_neighbors = (radial.values * volumes)[shell].sum() * 63 / 12**3
    assert n_neighbors == pytest.approx(6.0, rel=0.01)
    assert radial.values[radial.distances < 2.7].max() == 0.0


def test_the_largest_distance_is_half_the_smallest_height_of_a_skewed_cell():
    assert largest_distance(np.array([[10.0, 0, 0], [10.0, 10, 0], [0, 0, 30]])) == pytest.approx(
        10 / math.sqrt(2) / 2
    )


@pytest.mark.parametrize("ensemble", ["langevin", "svr"])
def test_verlet_cools_vibrations_as_expected(ensemble):
    """Compare light oscillators beside heavy ones with a simulated oscillator."""
    settings = MDSettings(ensemble=ensemble, time_step_fs=1.0, temperature_k=300.0)
    period, counts = 9.8, {"H": 2, "O": 1}
    shifts = expected_temperature_shifts(
        {"H": (2 * np.pi / period) ** 2, "O": 0.0}, counts, settings
    )
    ratio = verlet_temperature_ratio(period, 1.0)
    if ensemble == "langevin":
        assert shifts["O"] == 0.0
        assert shifts["H"] == pytest.approx(300 * (ratio - 1), rel=1e-3)
    else:
        assert 2 * shifts["H"] + shifts["O"] == pytest.approx(0.0)
        assert shifts["O"] - shifts["H"] == pytest.approx(300 * (1 - ratio), rel=1e-3)
    assert expected_temperature_shifts({}, {}, settings) is None
    assert expected_temperature_shifts({"H": 1.0}, {"H": 1}, MDSettings(ensemble="nve")) is None


def verlet_temperature_ratio(period, step):
    """Return <K> / <V> of a harmonic oscillator that velocity Verlet propagates."""
    omega, x, v = 2 * np.pi / period, 1.0, 0.0
    kinetic, potential = [], []
    for _ in range(20000):
        v -= step / 2 * omega**2 * x
        x += step * v
        v -= step / 2 * omega**2 * x
        kinetic.append(v * v)
        potential.append(omega**2 * x * x)
    return np.mean(kinetic) / np.mean(potential)
