"""The report of a distillation: all results and the recommendation, in one document."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ase import Atoms

from twinforce.assess.folder import as_json
from twinforce.assess.report.agreement import agreement_table
from twinforce.distill.folder import DistillFolder
from twinforce.distill.results.measurement import HYBRID, PRESET
from twinforce.distill.results.recommendation import (
    Evidence,
    Recommendation,
    candidates,
    is_predicted,
    reason_against,
    recommend,
    speed_up,
    standing_of,
)
from twinforce.distill.settings import DistillSettings
from twinforce.distill.teacher import TeacherSource

_FORMAT = 1
_STEPS = 100_000


def report_of(
    folder: DistillFolder,
    settings: DistillSettings,
    source: TeacherSource,
    systems: Sequence[Atoms],
    assessment: Mapping[str, Any],
    evidence: Evidence,
) -> dict[str, Any]:
    """Return the report of a distillation whose phases are done.

    Args:
        folder: Folder of the distillation.
        settings: Settings of the distillation.
        source: Place of the teacher.
        systems: Systems that were sampled; the first was measured.
        assessment: Report of the assessment of multiple time stepping.
        evidence: The numbers in it that the recommendation follows from.
    """
    measured = folder.phases["measure"].facts
    recommendation = recommend(evidence)
    report = {
        "format": _FORMAT,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "teacher": folder.phases["sample-0"].facts["teacher"] | {"given": settings.teacher},
        "system": _description(systems),
        "settings": asdict(settings),
        "rounds": [_round(folder, number) for number in range(settings.rounds)],
        "errors": measured["errors"],
        "lambda": measured["lambda"],
        "period_fs": measured["period_fs"],
        "evidence": asdict(evidence),
        "inner_steps": _table(evidence),
        "recommendation": asdict(recommendation),
        "not_shown": _not_shown(measured, recommendation, evidence, settings, assessment),
        "commands": commands_of(folder.path, settings, source, recommendation),
        "seconds": {name: phase.spent_s for name, phase in folder.phases.items()},
        "wall_s": folder.spent_s,
    }
    return dict(as_json(report))


def commands_of(
    out: Path,
    settings: DistillSettings,
    source: TeacherSource,
    recommendation: Recommendation,
) -> dict[str, str]:
    """Return the commands with which the hybrid is served, simulated and assessed further."""
    teacher = source.text if source.is_spec else "SPEC_OF_THE_TEACHER"
    options = settings.service
    flags = [f"--dtype {options.dtype}"]
    if options.device != "auto":
        flags.append(f"--device {options.device}")
    if options.trust_pickles:
        flags.append("--trust-pickles")
    if options.trust_packages:
        flags.append(f"--trust-packages {options.trust_packages}")
    flags += [f"--environment '{each}'" for each in options.environments]
    spec = f"{HYBRID}=conservative:{teacher}+direct:{out / 'student'}"
    common = f"--temperature {settings.temperature_k:g} --time-step {settings.time_step_fs:g}"
    forces = (
        f"--forces hybrid --inner-steps {recommendation.inner_steps}"
        if recommendation.inner_steps
        else "--forces conservative"
    )
    thermostat, relaxation = recommendation.thermostat.split(":")
    commands = {
        "serve": f"twinforce-server --no-water {' '.join(flags)} --model '{spec}'",
        "simulate": (
            f"twinforce md {out / 'start.xyz'} --model {HYBRID} {forces} --ensemble {thermostat} "
            f"--relaxation {relaxation} {common} --steps {_STEPS} --trajectory run.traj "
            "--log run.csv --restart run.npz"
        ),
    }
    if source.is_spec:
        commands["assess"] = (
            f"twinforce assess {out / 'start.xyz'} --model {HYBRID} --preset {PRESET} {common} "
            f"--equilibration 0 --seed {settings.seed} --output {out / 'assessment'} --budget 60"
        )
    return commands


def _description(systems: Sequence[Atoms]) -> dict[str, Any]:
    atoms = systems[0]
    return {
        "formula": atoms.get_chemical_formula(),
        "n_atoms": len(atoms),
        "counts": dict(Counter(atoms.get_chemical_symbols())),
        "pbc": atoms.pbc.tolist(),
        "n_systems": len(systems),
    }


def _round(folder: DistillFolder, number: int) -> dict[str, Any]:
    sampled, trained = folder.phases[f"sample-{number}"], folder.phases[f"train-{number}"]
    facts = {name: value for name, value in sampled.facts.items() if name != "teacher"}
    return facts | {
        "number": number,
        "sampling_s": sampled.spent_s,
        "training_s": trained.spent_s,
        "training_errors": trained.facts.get("errors", {}),
    }


def _table(evidence: Evidence) -> dict[str, Any]:
    """Return what is known of each M."""
    fastest_first = candidates(evidence)
    return {
        str(m): {
            "outer_fs": m * evidence.time_step_fs,
            "speed_up": speed_up(evidence, m),
            "is_timed": f"hybrid-{m}" in evidence.step_ms,
            "predicted": evidence.predicted.get(m),
            "run": evidence.runs.get(m),
            "standing": standing_of(evidence, m),
            "is_candidate": m in fastest_first,
            "reason_against": reason_against(evidence, m),
        }
        for m in range(2, 17)
    }


def _not_shown(
    measured: Mapping[str, Any],
    recommendation: Recommendation,
    evidence: Evidence,
    settings: DistillSettings,
    assessment: Mapping[str, Any],
) -> list[str]:
    """Return sentences on what the numbers do not show."""
    sentences = list(measured["notes"])
    chosen = recommendation.inner_steps
    if chosen is not None:
        if not is_predicted(evidence, chosen):
            sentences.append("The drift could not be predicted: the run for it was too short.")
        if recommendation.standing != "shown":
            sentences.append(
                f"No real run was long enough to show that M = {chosen} conserves the energy."
            )
        if evidence.thermostat.get(chosen, "not shown") == "not shown":
            sentences.append(
                "No run with a thermostat was long enough to show that every species keeps its "
                "temperature."
            )
    if evidence.period_fs is None:
        sentences.append("The shortest vibrational period is not known.")
    others = [f"{each:g} K" for each in settings.temperatures_k[1:]]
    if others:
        sentences.append(
            f"Multiple time stepping was measured at {settings.temperature_k:g} K only, not at "
            f"{', '.join(others)}; the errors of the forces are of all temperatures."
        )
    if any(settings.strains):
        sentences.append("Multiple time stepping was measured in the cell of the file only.")
    if not agreement_table(assessment).rows:
        sentences.append(
            "Diffusion, spectra and radial distributions of the hybrid were not compared with the "
            "teacher's, which takes long runs of both with a thermostat; `twinforce assess` "
            "continues the assessment."
        )
    return sentences
