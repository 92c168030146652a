"""A simulation that records itself and continues bit for bit from its last checkpoint."""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms

from twinforce.ase import DirectForcesWarning, ForceDisagreementWarning
from twinforce.assess.budget import Deadline
from twinforce.assess.subject import Subject
from twinforce.assess.units.recording import Layout, Record, Recorder
from twinforce.md import MDSettings, dynamics_of, follow
from twinforce_proto import InvalidSystemError, NonFinitePredictionError, SystemTooLargeError

_CHECKPOINT_S = 20.0
# The system has exploded if its temperature exceeds this multiple of the target.
_MAX_HEATING = 5.0
# Errors of the service for a system that has exploded.
EXPLOSION_ERRORS = (InvalidSystemError, NonFinitePredictionError, SystemTooLargeError)


@dataclass(frozen=True, slots=True)
class Ending:
    """The state in which a simulation stopped.

    Attributes:
        n_inner: Number of inner steps over all attempts.
        is_done: True if the simulation will not continue.
        note: Reason why the simulation ended early, or "".
    """

    n_inner: int
    is_done: bool
    note: str


def outer_fs(settings: MDSettings) -> float:
    """Return the length of an outer step, in fs."""
    inner_steps = settings.inner_steps if settings.forces == "hybrid" else 1
    return inner_steps * settings.time_step_fs


def record_of(
    atoms: Atoms,
    settings: MDSettings,
    directory: Path,
    *,
    has_motion: bool,
    has_power: bool = False,
) -> Record:
    """Return the recordings of a simulation."""
    step_fs = outer_fs(settings)
    layout = Layout.of(atoms, step_fs, has_motion=has_motion, has_power=has_power)
    return Record(directory, layout)


def simulate(
    subject: Subject,
    start: Atoms,
    settings: MDSettings,
    directory: Path,
    deadline: Deadline,
    *,
    has_motion: bool = True,
    has_power: bool = False,
) -> Ending:
    """Simulate, from the last checkpoint if any, until the end, the deadline or an explosion.

    Args:
        subject: The model, and the client of its service.
        start: Initial atoms with velocities; not modified.
        settings: Settings of the simulation.
        directory: Folder for the files of this simulation.
        deadline: Time at which to stop.
        has_motion: True to record positions and velocities.
        has_power: True to record the power of the difference of both forces.
    """
    atoms = start.copy()
    checkpoint = directory / "checkpoint.npz"
    with (
        warnings.catch_warnings(),
        subject.calculator() as atoms.calc,
    ):
        warnings.simplefilter("ignore", DirectForcesWarning)
        warnings.simplefilter("ignore", ForceDisagreementWarning)
        is_begun = checkpoint.exists()
        dynamics = dynamics_of(atoms, settings, checkpoint if is_begun else None)
        layout = record_of(
            start, settings, directory, has_motion=has_motion, has_power=has_power
        ).layout
        recorder = Recorder(directory, layout, dynamics.get_number_of_steps(), is_begun=is_begun)
        try:
            note = _run(subject, dynamics, settings, recorder, checkpoint, deadline)
        finally:
            recorder.close()
    n_inner = dynamics.get_number_of_steps() * dynamics.inner_steps
    is_done = bool(note) or n_inner >= settings.n_steps
    return Ending(n_inner, is_done, note)


def _run(
    subject: Subject,
    dynamics: Any,
    settings: MDSettings,
    recorder: Recorder,
    checkpoint: Path,
    deadline: Deadline,
) -> str:
    """Run, record and save; return the reason why the simulation cannot continue, or ""."""
    n_before = dynamics.get_number_of_steps() * dynamics.inner_steps
    title = checkpoint.parent.name
    saved_at = time.monotonic()
    note = ""
    with subject.progress.bar(title, settings.n_steps, n_before, "step") as bar:
        try:
            for instant in follow(dynamics, settings):
                recorder.record(dynamics.get_number_of_steps(), instant, dynamics.atoms)
                bar.update(instant.step - bar.n)
                if instant.temperature_k > _MAX_HEATING * settings.temperature_k:
                    note = f"stopped at {instant.temperature_k:.0f} K after {instant.time_fs:g} fs"
                if note or deadline.is_over:
                    break
                if time.monotonic() - saved_at > _CHECKPOINT_S:
                    _save(dynamics, recorder, checkpoint)
                    saved_at = time.monotonic()
            _save(dynamics, recorder, checkpoint)
        except EXPLOSION_ERRORS as error:
            if not recorder.has_records:  # not even the start can be evaluated
                raise
            note = f"stopped: {error}"
    return note


def _save(dynamics: Any, recorder: Recorder, checkpoint: Path) -> None:
    """Save a checkpoint, after the records that precede it."""
    recorder.flush()
    dynamics.save(checkpoint)
