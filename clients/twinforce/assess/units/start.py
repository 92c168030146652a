"""The equilibrated atoms from which all simulations of an assessment start."""

from pathlib import Path

import numpy as np
from ase import Atoms, units

from twinforce.assess.analysis.statistics import Floats
from twinforce.assess.budget import Deadline
from twinforce.assess.folder import UnitResults
from twinforce.assess.subject import Subject, Unit, free_atoms
from twinforce.assess.units.simulation import record_of, simulate
from twinforce.md import MDSettings, draw_velocities

KEY = "start"
_RELAXATION_FS = 100.0
_N_SNAPSHOTS = 16


def start_unit(subject: Subject) -> Unit:
    """Return the unit that equilibrates the atoms, with conservative forces if available."""
    settings = _settings(subject)
    recorded = {"temperature_k": settings.temperature_k, "relaxation_fs": settings.relaxation_fs}
    cost = 2.5 * settings.n_steps
    return Unit(KEY, cost, recorded, _equilibrate, outputs=frozenset())


def starting_atoms(subject: Subject, directory: Path) -> Atoms:
    """Return the equilibrated atoms with their velocities.

    Args:
        subject: The model and the system that are assessed.
        directory: Subfolder of the unit from `start_unit`.
    """
    atoms = subject.atoms.copy()
    with np.load(directory / "start.npz") as saved:
        atoms.positions[:] = saved["positions"]
        atoms.set_momenta(saved["momenta"], apply_constraint=False)
    return atoms


def expected_temperature_shifts(
    square_frequencies: dict[str, float],
    counts: dict[str, int],
    settings: MDSettings,
) -> dict[str, float] | None:
    """Return the shift of the temperature of each species that the finite time step causes, in K.

    Velocity Verlet keeps the momenta of a vibration of frequency ω colder than its positions:

        T_kinetic = T (1 - ω² dt²/4),        <ω²> = <f²> / (3 m k T) of a species

    Global velocity rescaling fixes the mean, so that only differences between species remain.

    Args:
        square_frequencies: <ω²> of each species, in 1/fs².
        counts: Number of atoms of each species that can move.
        settings: Settings of the simulation.

    Returns:
        Shift of each species, or None if the ensemble is neither SVR nor Langevin, since no such
        simple relation holds then.
    """
    if settings.ensemble not in ("svr", "langevin") or not square_frequencies:
        return None
    square = settings.time_step_fs**2 / 4.0
    shifts = {
        symbol: -settings.temperature_k * square * value
        for symbol, value in square_frequencies.items()
    }
    if settings.ensemble == "langevin":
        return shifts
    mean = sum(shifts[each] * counts[each] for each in shifts) / sum(
        counts[each] for each in shifts
    )
    return {symbol: shift - mean for symbol, shift in shifts.items()}


def _settings(subject: Subject) -> MDSettings:
    conditions = subject.conditions
    is_conservative = "conservative_forces" in subject.info.outputs
    return MDSettings(
        forces="conservative" if is_conservative else "direct",
        ensemble="svr",
        n_steps=round(conditions.equilibration_ps * 1e3 / conditions.time_step_fs),
        time_step_fs=conditions.time_step_fs,
        temperature_k=conditions.temperature_k,
        relaxation_fs=_RELAXATION_FS,
        seed=conditions.seed,
    )


def _equilibrate(subject: Subject, directory: Path, deadline: Deadline) -> UnitResults:
    settings = _settings(subject)
    atoms = subject.atoms.copy()
    if not atoms.get_momenta()[free_atoms(atoms)].any(axis=1).all():  # some atoms are at rest
        draw_velocities(atoms, settings.temperature_k, np.random.default_rng(settings.seed))
    snapshots = atoms.positions[None]
    if settings.n_steps:
        ending = simulate(subject, atoms, settings, directory, deadline)
        if ending.note:
            raise ValueError(f"equilibration {ending.note}: no simulation can start from here")
        if not ending.is_done:
            return UnitResults(
                {"picoseconds": ending.n_inner * settings.time_step_fs * 1e-3}, False
            )
        snapshots = record_of(atoms, settings, directory, has_motion=True).positions()
        with np.load(directory / "checkpoint.npz") as saved:
            atoms.positions[:] = saved["positions"]
            atoms.set_momenta(saved["momenta"], apply_constraint=False)
    np.savez(directory / "start.npz", positions=atoms.positions, momenta=atoms.get_momenta())
    values = {
        "picoseconds": settings.n_steps * settings.time_step_fs * 1e-3,
        "square_frequencies": _square_frequencies(subject, settings.forces, snapshots),
    }
    return UnitResults(values)


def _square_frequencies(subject: Subject, kind: str, snapshots: Floats) -> dict[str, float]:
    """Return <f²> / (3 m k T) of each species, in 1/fs², from the second half of a simulation.

    Only atoms that can move count.
    """
    late = snapshots[len(snapshots) // 2 :]
    chosen = late[np.linspace(0, len(late) - 1, min(_N_SNAPSHOTS, len(late))).astype(int)]
    output = f"{kind}_forces"
    n_each = subject.n_per_request
    predictions = [
        prediction
        for begin in range(0, len(chosen), n_each)
        for prediction in subject.predict(chosen[begin : begin + n_each], (output,))
    ]
    squares = np.mean([(getattr(each, output) ** 2).sum(axis=1) for each in predictions], axis=0)
    kt = units.kB * subject.conditions.temperature_k
    per_atom = squares / (3.0 * subject.atoms.get_masses() * kt) * units.fs**2
    symbols = np.array(subject.atoms.get_chemical_symbols())[subject.free]
    per_atom = per_atom[subject.free]
    return {symbol: float(per_atom[symbols == symbol].mean()) for symbol in sorted(set(symbols))}
