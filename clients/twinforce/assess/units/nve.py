"""Energy conservation without a thermostat, for each way to drive a simulation."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from twinforce.assess.analysis.statistics import block_average
from twinforce.assess.budget import Deadline
from twinforce.assess.folder import UnitResults
from twinforce.assess.subject import Conditions, Subject, Unit
from twinforce.assess.units.recording import Record
from twinforce.assess.units.simulation import outer_fs, record_of, simulate
from twinforce.assess.units.start import KEY, starting_atoms
from twinforce.assess.ways import Way
from twinforce.md import MDSettings, fit_drift

_N_POINTS = 240


def nve_unit(way: Way, picoseconds: float, conditions: Conditions) -> Unit:
    """Return the unit that measures the drift of the total energy."""
    settings = MDSettings(
        forces=way.forces,
        inner_steps=way.inner_steps,
        ensemble="nve",
        n_steps=max(round(picoseconds * 1e3 / conditions.time_step_fs), 1),
        time_step_fs=conditions.time_step_fs,
        temperature_k=conditions.temperature_k,
        seed=conditions.seed,
    )
    return Unit(
        f"nve:{way}",
        way.cost() * settings.n_steps,
        {"forces": str(way), "time_step_fs": settings.time_step_fs},
        partial(_measure, settings),
        needs_start=True,
        outputs=way.outputs,
    )


def _measure(
    settings: MDSettings, subject: Subject, directory: Path, deadline: Deadline
) -> UnitResults:
    start = starting_atoms(subject, directory.parent / KEY)
    ending = simulate(subject, start, settings, directory, deadline, has_motion=False)
    record = record_of(start, settings, directory, has_motion=False)
    values = summarize(record, len(subject.free), outer_fs(settings))
    values["picoseconds"] = ending.n_inner * settings.time_step_fs * 1e-3
    values["planned_picoseconds"] = settings.n_steps * settings.time_step_fs * 1e-3
    return UnitResults(values, ending.is_done, ending.note)


def summarize(record: Record, n_free: int, step_fs: float) -> dict[str, object]:
    """Return the drift, the temperatures and the energy curve of a simulation.

    Args:
        record: Recordings of the simulation.
        n_free: Number of atoms that can move, which share the energy.
        step_fs: Length of an outer step, in fs.
    """
    series = record.series()
    total = series["energy"] + series["kinetic_energy"]
    times = step_fs * np.arange(len(total), dtype=np.float64)
    tenth = max(len(total) // 10, 1)
    chosen = np.unique(np.linspace(0, len(total) - 1, _N_POINTS).astype(int))
    drift = fit_drift(times, total, n_free) if np.isfinite(total).all() else None
    return {
        "drift": None if drift is None else asdict(drift),
        "first_temperature_k": series["temperature"][:tenth].mean(),
        "last_temperature_k": series["temperature"][-tenth:].mean(),
        "rmse": asdict(block_average(series["rmse"])),
        "time_ps": (times[chosen] * 1e-3).round(5),
        "change_mev_per_atom": ((total[chosen] - total[0]) * 1e3 / n_free).round(5),
    }
