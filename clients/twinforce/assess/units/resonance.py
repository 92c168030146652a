"""The heating by the outer steps of multiple time stepping, predicted from one simulation.

Impulses of D = conservative - direct forces every M·dt act like D itself plus D modulated at the
multiples of the frequency 1/(M·dt): D (1 + 2 Σ_k cos 2πkt/(M·dt)). The system absorbs energy from
the modulated part. To first order, the rate follows from the spectrum of the power of D without
modulation (fluctuation-dissipation theorem, e.g. Kubo, Rep. Prog. Phys. 29, 255 (1966)):

    dE/dt = Σ_k S(k / (M·dt)) / (k_B T)        S(ν) = ∫ <P(0) P(t)> exp(-2πiνt) dt,    P = D·v

A single simulation on conservative forces that evaluates both kinds therefore predicts the drift
for every M: it is large where 1/(M·dt) meets an overtone of a stiff bond.

If conservative forces are too expensive for that, a simulation that is corrected every s steps
predicts the drift for multiples of s: M = m·s heats by

    dE/dt = 1/(2 k_B T) Σ_k S'(k / (M·dt)),  k = 1 ... m - 1        S' -> spectrum of P every s·dt

more than M = s, which is assumed not to heat. S' repeats at multiples of 1/(s·dt), so that nothing
is lost by the coarser sampling.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import units

from twinforce.assess.analysis.motion import wave_number
from twinforce.assess.analysis.statistics import Floats, mean_of_independent
from twinforce.assess.budget import Deadline
from twinforce.assess.folder import UnitResults
from twinforce.assess.subject import Conditions, Subject, Unit
from twinforce.assess.units.simulation import record_of, simulate
from twinforce.assess.units.start import KEY as START
from twinforce.assess.units.start import starting_atoms
from twinforce.assess.ways import Way
from twinforce.md import MDSettings

KEY = "resonance"
_WINDOW_FS = 250.0
# A window of fewer steps does not resolve anything.
_FEWEST_STEPS = 8
_INNER_STEPS = range(3, 17)


def resonance_unit(picoseconds: float, conditions: Conditions, stride: int = 1) -> Unit:
    """Return the unit that predicts the heating by multiple time stepping.

    Args:
        picoseconds: Length of the simulation, in ps.
        conditions: Conditions of the simulation.
        stride: Number of steps between corrections, s.
    """
    way = Way("hybrid", stride)
    settings = MDSettings(
        forces="hybrid",
        inner_steps=stride,
        ensemble="nve",
        n_steps=max(round(picoseconds * 1e3 / conditions.time_step_fs), 1),
        time_step_fs=conditions.time_step_fs,
        temperature_k=conditions.temperature_k,
        seed=conditions.seed,
    )
    return Unit(
        KEY if stride == 1 else f"{KEY}:{stride}",
        way.cost() * settings.n_steps,
        {"time_step_fs": settings.time_step_fs},
        partial(_measure, settings),
        needs_start=True,
    )


def spectra_of_power(work: Floats, step_fs: float) -> tuple[Floats, Floats]:
    """Return frequencies and the two-sided power spectrum of dW/dt in windows of the simulation.

    The work of a step is the mean of the power at both of its ends; the factor 1/cos²(πν·dt)
    recovers the spectrum of the power itself.

    Args:
        work: Work since the start, in eV, at each step, shape [n_steps + 1].
        step_fs: dt, in fs.

    Returns:
        Frequencies in 1/fs, shape [n], below the Nyquist frequency; and the spectra in eV²/fs,
        shape [n_windows, n], of windows that overlap by half. There is no window if the
        simulation is too short for one.
    """
    power = np.diff(work) / step_fs
    size = min(round(_WINDOW_FS / step_fs), len(power))
    window = np.hanning(size)
    frequencies = np.fft.rfftfreq(size, step_fs)[:-1].astype(np.float64)
    spectra = [
        np.abs(np.fft.rfft((part - part.mean()) * window)[:-1]) ** 2
        for begin in range(0, len(power) - size + 1, max(size // 2, 1))
        for part in (power[begin : begin + size],)
    ]
    scale = step_fs / (window**2).sum() / np.cos(np.pi * frequencies * step_fs) ** 2
    return frequencies, np.array(spectra).reshape(-1, len(frequencies)) * scale


def predicted_drifts(
    frequencies: Floats, spectra: Floats, step_fs: float, temperature_k: float, n_free: int
) -> dict[int, dict[str, Any]]:
    """Return the predicted energy drift for several M, in meV/atom/ps.

    Args:
        frequencies: Frequencies in 1/fs, shape [n].
        spectra: Spectra from `spectra_of_power`, shape [n_windows, n].
        step_fs: dt, in fs.
        temperature_k: Temperature of the simulation, in K.
        n_free: Number of atoms that can move.
    """
    scale = 1e6 / (units.kB * temperature_k * n_free)
    drifts = {}
    for inner_steps in _INNER_STEPS:
        modulations = np.arange(1, (inner_steps + 1) // 2) / (inner_steps * step_fs)
        rates = np.zeros(len(spectra))
        for frequency in modulations:
            rates += [np.interp(frequency, frequencies, each) * scale for each in spectra]
        drift = mean_of_independent(rates)
        # Windows overlap by half, so three of them are worth about two independent ones.
        drifts[inner_steps] = asdict(drift) | {"error": drift.error * 1.5**0.5}
    return drifts


def drifts_of_multiples(
    power: Floats, step_fs: float, stride: int, temperature_k: float, n_free: int
) -> dict[int, dict[str, Any]]:
    """Return the predicted energy drift for multiples of the stride, in meV/atom/ps.

    Args:
        power: Power of the difference of both forces at each correction, in eV/fs, shape [n].
        step_fs: Time between corrections, s·dt, in fs.
        stride: Number of inner steps between corrections, s.
        temperature_k: Temperature of the simulation, in K.
        n_free: Number of atoms that can move.
    """
    scale = 1e6 / (2.0 * units.kB * temperature_k * n_free)
    size = min(round(_WINDOW_FS / step_fs), len(power))
    window = np.hanning(size)
    parts = [
        (power[begin : begin + size] - power[begin : begin + size].mean()) * window
        for begin in range(0, len(power) - size + 1, max(size // 2, 1))
    ]
    drifts = {}
    for multiple in range(2, _INNER_STEPS[-1] // stride + 1):
        # At the frequencies themselves, which need not be multiples of the resolution.
        phases = 2.0 * np.pi * np.outer(np.arange(1, multiple), np.arange(size)) / multiple
        waves = np.exp(-1j * phases)
        rates = [
            scale * step_fs / (window**2).sum() * float((np.abs(waves @ part) ** 2).sum())
            for part in parts
        ]
        drift = mean_of_independent(rates)
        # Windows overlap by half, so three of them are worth about two independent ones.
        drifts[multiple * stride] = asdict(drift) | {"error": drift.error * 1.5**0.5}
    return drifts


def _measure(
    settings: MDSettings, subject: Subject, directory: Path, deadline: Deadline
) -> UnitResults:
    start = starting_atoms(subject, directory.parent / START)
    stride = settings.inner_steps
    kept = {"has_motion": False, "has_power": stride > 1}
    ending = simulate(subject, start, settings, directory, deadline, **kept)
    names = ("power" if stride > 1 else "work", "temperature")
    series = record_of(start, settings, directory, **kept).series(names)
    recorded, step_fs = series[names[0]], stride * settings.time_step_fs
    values: dict[str, object] = {
        "picoseconds": ending.n_inner * settings.time_step_fs * 1e-3,
        "planned_picoseconds": settings.n_steps * settings.time_step_fs * 1e-3,
        "stride": stride,
    }
    has_window = len(recorded) * step_fs > _WINDOW_FS >= _FEWEST_STEPS * step_fs
    if has_window and np.isfinite(recorded).all():
        temperature_k, n_free = float(series["temperature"].mean()), len(subject.free)
        values["temperature_k"] = temperature_k
        if stride > 1:
            drifts = drifts_of_multiples(recorded, step_fs, stride, temperature_k, n_free)
        else:
            frequencies, spectra = spectra_of_power(recorded, step_fs)
            drifts = predicted_drifts(frequencies, spectra, step_fs, temperature_k, n_free)
            rates = spectra.mean(axis=0) * 1e6 / (units.kB * temperature_k * n_free)
            values["wave_numbers"] = (frequencies * wave_number(1.0)).round(1)
            values["heating"] = rates
        values["drifts"] = {str(inner_steps): each for inner_steps, each in drifts.items()}
    return UnitResults(values, ending.is_done, ending.note)
