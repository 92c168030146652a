"""Temperatures, motion and structure under a thermostat, for each way to drive a simulation."""

from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from twinforce._systems import are_fixed
from twinforce.assess.analysis.motion import diffusion, repeatability, velocity_spectrum
from twinforce.assess.analysis.radial import radial_distributions
from twinforce.assess.analysis.statistics import block_average
from twinforce.assess.budget import Deadline
from twinforce.assess.folder import UnitResults, read_results
from twinforce.assess.subject import Conditions, Subject, Unit
from twinforce.assess.units.recording import Record
from twinforce.assess.units.simulation import outer_fs, record_of, simulate
from twinforce.assess.units.start import KEY, expected_temperature_shifts, starting_atoms
from twinforce.assess.ways import Thermostat, Way
from twinforce.md import MDSettings, fit_drift

# Share of a simulation during which the forces and the thermostat settle.
_SETTLING = 0.1
_LARGEST_DISTANCE = 8.0
# Version 2 finds the end of a spectrum by its height rather than by its area; version 3 compares
# the spectra of both halves.
_ANALYSIS = 3


def nvt_unit(way: Way, thermostat: Thermostat, picoseconds: float, conditions: Conditions) -> Unit:
    """Return the unit that simulates at constant temperature."""
    key = f"nvt:{way}:{thermostat}"
    settings = MDSettings(
        forces=way.forces,
        inner_steps=way.inner_steps,
        ensemble=thermostat.ensemble,
        relaxation_fs=thermostat.relaxation_fs,
        n_steps=max(round(picoseconds * 1e3 / conditions.time_step_fs), 1),
        time_step_fs=conditions.time_step_fs,
        temperature_k=conditions.temperature_k,
        seed=conditions.seed_of(key),
    )
    recorded = {
        "forces": str(way),
        "thermostat": str(thermostat),
        "time_step_fs": settings.time_step_fs,
        "temperature_k": settings.temperature_k,
    }
    return Unit(
        key,
        way.cost() * settings.n_steps,
        recorded,
        partial(_measure, settings),
        needs_start=True,
        outputs=way.outputs,
        analysis=_ANALYSIS,
    )


def _measure(
    settings: MDSettings, subject: Subject, directory: Path, deadline: Deadline
) -> UnitResults:
    start = starting_atoms(subject, directory.parent / KEY)
    ending = simulate(subject, start, settings, directory, deadline)
    record = record_of(start, settings, directory, has_motion=True)
    values = temperatures(record, len(subject.free), settings)
    start_results = read_results(directory.parent / KEY)
    frequencies = {} if start_results is None else start_results.values["square_frequencies"]
    counts = Counter(start.symbols[subject.free])
    values["expected_shifts_k"] = expected_temperature_shifts(frequencies, counts, settings)
    values |= motion(record, start, settings) | order(record, start)
    values["picoseconds"] = ending.n_inner * settings.time_step_fs * 1e-3
    values["planned_picoseconds"] = settings.n_steps * settings.time_step_fs * 1e-3
    return UnitResults(values, ending.is_done, ending.note)


def temperatures(record: Record, n_free: int, settings: MDSettings) -> dict[str, Any]:
    """Return mean temperatures and force differences, and the drift of the conserved energy.

    Temperatures and the drift are those of the atoms that can move, of which there are `n_free`;
    force differences are those of all atoms.
    """
    series = record.series()
    n_settling = int(_SETTLING * len(series["energy"]))
    settled = {name: values[n_settling:] for name, values in series.items()}
    times = outer_fs(settings) * np.arange(len(settled["energy"]), dtype=np.float64)
    is_finite = np.isfinite(settled["conserved_energy"]).all()
    drift = fit_drift(times, settled["conserved_energy"], n_free) if is_finite else None
    symbols = record.layout.symbols
    return {
        "temperature": asdict(block_average(settled["temperature"])),
        "species_temperatures": {
            each: asdict(block_average(settled[f"temperature_{each}"])) for each in symbols
        },
        "rmse": asdict(block_average(settled["rmse"])),
        "species_rmse": {each: asdict(block_average(settled[f"rmse_{each}"])) for each in symbols},
        "conserved_drift": None if drift is None else asdict(drift),
    }


def motion(record: Record, atoms: Atoms, settings: MDSettings) -> dict[str, Any]:
    """Return the diffusion coefficient and the velocity spectrum of each species.

    Only atoms that can move count.
    """
    layout = record.layout
    positions, velocities = record.positions(), record.velocities()
    positions = positions[int(_SETTLING * len(positions)) :]
    velocities = velocities[int(_SETTLING * len(velocities)) :]
    steps = outer_fs(settings) * np.array([layout.position_interval, layout.velocity_interval])
    symbols = np.array(atoms.get_chemical_symbols())
    is_free = ~are_fixed(atoms)
    members = {each: is_free & (symbols == each) for each in layout.symbols}
    masses = atoms.get_masses() if is_free.all() else None
    moving = {each: velocities[:, chosen[layout.traced]] for each, chosen in members.items()}
    spectra = {each: velocity_spectrum(moving[each], steps[1]) for each in members}
    return {
        "diffusion": {
            each: asdict(diffusion(positions, masses, chosen, steps[0]))
            for each, chosen in members.items()
        },
        "largest_wave_number": 0.5 / (steps[1] * 2.99792458e-5),
        "spectra": {
            each: {
                "wave_numbers": spectrum.wave_numbers.round(2),
                "density": _rounded(spectrum.density),
                "peak": spectrum.peak,
                "highest": spectrum.highest,
                "repeatability": repeatability(moving[each], steps[1]),
            }
            for each, spectrum in spectra.items()
            if spectrum is not None
        },
    }


def order(record: Record, atoms: Atoms) -> dict[str, Any]:
    """Return radial distribution functions; none unless periodic in all three directions."""
    if not atoms.pbc.all():
        return {"radial": {}}
    positions = record.positions()
    distributions = radial_distributions(
        positions[int(_SETTLING * len(positions)) :],
        atoms.cell.array,
        np.array(atoms.get_chemical_symbols()),
        largest=_LARGEST_DISTANCE,
    )
    return {
        "radial": {
            name: {
                "distances": radial.distances.round(4),
                "values": _rounded(radial.values),
                "errors": _rounded(radial.errors),
                "peak": radial.peak,
            }
            for name, radial in distributions.items()
        }
    }


def _rounded(values: Any) -> list[float]:
    """Return values rounded to five digits, enough for a plot, to keep the report small."""
    return [float(f"{value:.5g}") for value in values]
