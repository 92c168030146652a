"""Run an assessment unit by unit, within a time budget, and continue where it stopped."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ase import Atoms

from twinforce._client import Client
from twinforce.assess.budget import EXPIRED, NEVER, Deadline, share_of
from twinforce.assess.folder import Folder, UnitResults, digest_of, write_json
from twinforce.assess.plan import PRESETS, plan, weights
from twinforce.assess.progress import Progress
from twinforce.assess.report.page import page_of
from twinforce.assess.report.report import provenance_of, report_of
from twinforce.assess.subject import Conditions, Subject, Unit
from twinforce.assess.units.start import KEY as START
from twinforce_proto import ModelChangedError, UnavailableError

_DEFAULT_CONDITIONS = Conditions()
# The equilibration must leave time for the units that need it.
_SHARE_OF_START = 0.5


def assess(
    client: Client,
    atoms: Atoms,
    out: Path,
    *,
    model: str | None = None,
    preset: str = "standard",
    pieces: Sequence[str] = (),
    conditions: Conditions = _DEFAULT_CONDITIONS,
    budget_minutes: float = math.inf,
    anew: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Assess a served model on one system; write report.json and report.html; return the report.

    Finished units in the folder are not run again, and started ones continue. Several processes
    may work on one assessment in the same folder at the same time.

    Args:
        client: Client of the service.
        atoms: The system; simulations start from its velocities if it has any.
        out: Folder of the assessment.
        model: Name of the model; None selects the default model of the service.
        preset: Amount of work, one of `PRESETS`.
        pieces: Pieces to run, or units of them such as "nvt:direct:svr:10". Empty runs all.
        conditions: Conditions that all simulations share.
        budget_minutes: Wall time after which no new work begins, in minutes.
        anew: Delete an assessment of another model or system in the folder.
        progress: Where to show progress; None shows nothing.

    Raises:
        ValueError: The folder holds an assessment of another model or system, a piece is unknown,
            or the atoms have a constraint other than FixAtoms.
        ModelChangedError: The service came to have other weights; nothing of them is kept.
        UnavailableError: The service cannot be reached; a later call continues.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    shown = progress or Progress(is_shown=False)
    subject = Subject(
        client=client, info=client.model(model), atoms=atoms, conditions=conditions, progress=shown
    )
    units = plan(subject, PRESETS[preset], pieces)
    folder = Folder(out)
    folder.claim(identity_of(subject), anew=anew)
    provenance = provenance_of(subject)
    overall = NEVER if math.isinf(budget_minutes) else Deadline.after(60.0 * budget_minutes)
    notes = _run_units(subject, folder, units, overall)
    report = report_of(subject, provenance, folder, units, notes)
    write_json(out / "report.json", report)
    (out / "report.html").write_text(page_of(report), encoding="utf-8")
    return report


def identity_of(subject: Subject) -> dict[str, Any]:
    """Return everything that all units depend on."""
    conditions = subject.conditions
    return {
        "model": subject.info.name,
        "version": subject.info.version,
        "sha256": subject.info.sha256,
        "dtype": subject.info.dtype,
        "atoms": digest_of(subject.atoms),
        "temperature_k": conditions.temperature_k,
        "time_step_fs": conditions.time_step_fs,
        "equilibration_ps": conditions.equilibration_ps,
        "seed": conditions.seed,
    }


def _run_units(
    subject: Subject, folder: Folder, units: list[Unit], overall: Deadline
) -> dict[str, str]:
    """Run all unfinished units; return the reasons why some were not run, by unit key."""
    notes: dict[str, str] = {}
    waiting = [unit for unit in units if not _is_done(folder, unit)]
    if any(unit.needs_start for unit in units) and not any(unit.needs_start for unit in waiting):
        waiting = [unit for unit in waiting if unit.key != START]
    shares = weights(waiting)
    for index, unit in enumerate(waiting):
        if unit.key == START:
            deadline = share_of(overall, _SHARE_OF_START, [1 - _SHARE_OF_START])
        else:
            deadline = share_of(overall, shares[index], shares[index + 1 :])
        if note := _run_unit(subject, folder, unit, deadline, notes.get(START, "")):
            notes[unit.key] = note
            subject.progress.say(f"{unit.key}: {note}")
    return notes


def _run_unit(
    subject: Subject, folder: Folder, unit: Unit, deadline: Deadline, start_note: str
) -> str:
    """Run a unit as far as time allows; return the reason why it has no results, or "".

    A unit fails alone: the others are run, and the page says why.

    Args:
        subject: The model and the system to assess.
        folder: Folder of the assessment.
        unit: Unit to run.
        deadline: Time at which to stop.
        start_note: Reason why there are no equilibrated atoms to start from, if it is known.
    """
    if not len(subject.free):
        return "not defined: no atom can move"
    if missing := sorted(unit.outputs - set(subject.info.outputs)):
        return f"skipped: the model has no {' and no '.join(missing)}"
    if deadline.is_over:
        return "" if folder.results(unit.key) else "not run: no time was left"
    if unit.needs_start and not (folder.directory(START) / "start.npz").exists():
        return f"not run: {start_note or 'the start is not equilibrated yet'}"
    lock_deadline = deadline if unit.key == START else EXPIRED
    with folder.locked(unit.key, lock_deadline) as is_ours:
        if not is_ours:
            return "not run: another process works on it"
        if _is_done(folder, unit):
            return ""
        if folder.prepare(unit.key, unit.settings):
            subject.progress.say(f"{unit.key}: started over, because its settings have changed")
        before = folder.results(unit.key) or UnitResults()
        begin = time.monotonic()
        try:
            results = unit.work(subject, folder.directory(unit.key), deadline)
        except ModelChangedError:
            subject.check(subject.client.model(subject.info.name))  # says how to continue
            raise
        except UnavailableError:
            raise
        except Exception as error:
            return f"failed: {type(error).__name__}: {error}"
        wall_s = before.wall_s + time.monotonic() - begin
        folder.write(
            unit.key, replace(results, wall_s=wall_s, cost=unit.cost, analysis=unit.analysis)
        )
    return ""


def _is_done(folder: Folder, unit: Unit) -> bool:
    """Return True if a unit is done with its present settings."""
    results = folder.results(unit.key)
    return (
        results is not None
        and results.is_done
        and (results.cost >= unit.cost or bool(results.note))
        and results.analysis >= unit.analysis
        and folder.has_settings(unit.key, unit.settings)
    )
