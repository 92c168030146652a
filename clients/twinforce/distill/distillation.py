"""A distillation from beginning to end: rounds of sampling and training, then measurements."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import ase.io
import numpy as np
from ase import Atoms

from twinforce.ase.checks import check_masses
from twinforce.ase.hydrogen import repartition_hydrogen_mass
from twinforce.assess.analysis.motion import period_fs
from twinforce.assess.budget import Deadline
from twinforce.assess.folder import digest_of, write_json
from twinforce.assess.progress import Progress
from twinforce.distill.folder import DistillFolder, Phase
from twinforce.distill.joined import JoinedClient, ServedModel
from twinforce.distill.programs.children import ChildFailedError
from twinforce.distill.programs.services import running_service
from twinforce.distill.programs.training import export, metadata_of, minutes_needed, train
from twinforce.distill.results import measurement
from twinforce.distill.results.page import page_of
from twinforce.distill.results.recommendation import Evidence
from twinforce.distill.results.report import report_of
from twinforce.distill.sampling.dataset import write_round
from twinforce.distill.sampling.sampling_round import (
    SamplingRound,
    walks_of,
)
from twinforce.distill.settings import DistillSettings
from twinforce.distill.teacher import TeacherSource, check_teacher, outputs_of
from twinforce.md.columns import take_masses

# A distillation is refused if the least that it has to sample would take more than this share.
_LARGEST_SHARE = 0.5
_FEWEST_EVALUATIONS = 64
# Even if earlier phases took more than their time, a training gets so many seconds, and the
# measurement this share of the whole.
_LEAST_TRAINING_S, _LEAST_MEASURING = 30.0, 0.1
# Training needs up to so many minutes on a busy machine for its start alone.
_START_UP_MINUTES = 5.0
# A training that had too little time gets this many times what it says that it needs.
_MORE_TIME = 1.3


def distill(
    systems: Sequence[Atoms],
    source: TeacherSource,
    settings: DistillSettings,
    out: Path,
    *,
    anew: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a student on a teacher, measure it, and return the report.

    A call with the same arguments continues one that was interrupted; with more minutes, it
    measures for longer.

    Args:
        systems: Systems to sample from; the first one is measured.
        source: Place of the teacher.
        settings: Settings of the distillation.
        out: Folder of all output.
        anew: Delete an earlier distillation in the folder.
        progress: Where to show progress; None shows nothing.

    Raises:
        ValueError: The folder is of another distillation, or there are too few minutes.
        ModuleNotFoundError: The service or the training are not installed.
        ServiceError: The teacher lacks forces, refuses a system or has other weights than before,
            or a program that was started has failed.
    """
    for atoms in systems:
        check_masses(atoms)
    folder = DistillFolder(out)
    with folder.claimed(identity_of(systems, settings), anew=anew):
        run = Distillation(systems, source, settings, folder, progress or Progress(is_shown=False))
        for number in range(settings.rounds):
            run.sample(number)
            run.train(number)
        return run.measure()


def identity_of(systems: Sequence[Atoms], settings: DistillSettings) -> dict[str, Any]:
    """Return everything that the results depend on; more minutes only continue them."""
    given = asdict(settings)
    for name in ("minutes", "service"):
        given.pop(name)
    return given | {
        "systems": [digest_of(atoms)[:16] for atoms in systems],
        "dtype": settings.service.dtype,
    }


class Distillation:
    """The phases of a distillation, each of which is done once.

    Args:
        systems: Systems to sample from.
        source: Place of the teacher.
        settings: Settings of the distillation.
        folder: Its folder, claimed by this process.
        progress: Where to show progress.
    """

    def __init__(
        self,
        systems: Sequence[Atoms],
        source: TeacherSource,
        settings: DistillSettings,
        folder: DistillFolder,
        progress: Progress,
    ) -> None:
        self._systems = [_with_masses(each, settings) for each in systems]
        self._source, self._settings = source, settings
        self._folder, self._progress = folder, progress
        self._end_s = 60.0 * settings.minutes
        self._services = ExitStack()
        self._teacher: ServedModel | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._services.close()

    def sample(self, number: int) -> None:
        """Sample in a round, and write its labeled systems."""
        self._run(f"sample-{number}", lambda phase, deadline: self._sample(number, phase, deadline))

    def train(self, number: int) -> None:
        """Train the student of a round."""
        self._run(f"train-{number}", lambda phase, deadline: self._train(number, phase, deadline))

    def measure(self) -> dict[str, Any]:
        """Measure the student, write the report and return it."""
        phase = self._folder.phases.get("measure")
        has_time = self._end_s - self._folder.spent_s > 0.05 * self._end_s
        if phase is not None and phase.is_done and has_time:
            phase.is_done = False  # there are more minutes than before
        self._run("measure", self._measure)
        path = self._folder.path / "report.json"
        assessment = self._assessment()  # which `twinforce assess` may have continued
        evidence = self._evidence(assessment)
        report = report_of(
            self._folder, self._settings, self._source, self._systems, assessment, evidence
        )
        write_json(path, report)
        page = page_of(report, assessment)
        (self._folder.path / "report.html").write_text(page, encoding="utf-8")
        return report

    def _run(self, name: str, work: Callable[[Phase, Deadline], None]) -> None:
        """Do the work of a phase unless it is done, with its share of the time that is left."""
        shares = self._settings.phases()
        later = [share for each, share in shares.items() if not self._is_done(each)]
        left_s = max(self._end_s - self._folder.spent_s, 0.0)
        phase = self._folder.phase(name, left_s * shares[name] / (sum(later) or 1.0))
        if phase.is_done:
            return
        done_s = self._folder.spent_s - phase.began_s  # in earlier attempts
        if name == "measure":
            phase.allotted_s = done_s + max(left_s, _LEAST_MEASURING * self._end_s)
        elif name.startswith("train"):
            phase.allotted_s = max(phase.allotted_s, _LEAST_TRAINING_S)
        deadline = Deadline.after(max(phase.allotted_s - done_s, 0.0))
        try:
            work(phase, deadline)
            phase.is_done = True
        finally:
            phase.spent_s = self._folder.spent_s - phase.began_s
            self._folder.save()

    def _is_done(self, name: str) -> bool:
        return name in self._folder.phases and self._folder.phases[name].is_done

    def _sample(self, number: int, phase: Phase, deadline: Deadline) -> None:
        settings, folder = self._settings, self._folder
        earlier = folder.round(number - 1) / "walkers.npz" if number else None
        sampling = SamplingRound(folder.round(number), self._systems, settings, number, earlier)
        with ExitStack() as stack:
            teacher = self._served_teacher()
            student = None
            if number:
                # As a composed model, so that only its direct forces are compiled.
                spec = str(folder.trained(number - 1))
                models = {"student": f"conservative:{spec}+direct:{spec}"}
                log = folder.logs / "student.log"
                client = stack.enter_context(
                    running_service(models, settings.service, log, "the service of the student")
                )
                student = ServedModel(client, client.model("student"))
            has_stress = len(outputs_of(teacher.info, self._systems)) > 2
            joined = JoinedClient(teacher, student, has_stress=has_stress)
            n_labels = settings.n_labels(len(self._systems[0]), number)
            sampling.run(joined, n_labels, deadline, self._progress)
        trajectories = sampling.trajectories()
        path = folder.data / f"round-{number}.xyz"
        phase.facts |= write_round(path, trajectories, self._systems, settings, number)
        sampling.save_walkers(folder.round(number) / "walkers.npz", earlier)
        if number == settings.rounds - 1:
            self._write_start(number)
        sampling.discard()

    def _served_teacher(self) -> ServedModel:
        """Return the teacher, whose service is kept for later rounds, after all checks of it."""
        if self._teacher is None:
            log = self._folder.logs / "teacher.log"
            teacher = self._services.enter_context(self._source.served(log))
            evaluation_s = check_teacher(teacher, self._systems)
            self._check_weights(teacher)
            self._check_time(evaluation_s)
            self._teacher = teacher
        return self._teacher

    def _check_weights(self, teacher: ServedModel) -> None:
        """Check that the teacher is the one that the distillation began with."""
        first = self._folder.phases["sample-0"]
        info = teacher.info
        known = first.facts.get("teacher")
        facts = {
            "name": info.name,
            "version": info.version,
            "sha256": info.sha256,
            "dtype": info.dtype,
            "device": info.device,
            "architecture": info.architecture,
            "n_parameters": info.n_parameters,
            "elements": list(info.elements) if len(info.elements) < 20 else len(info.elements),
        }
        if known is None:
            first.facts["teacher"] = facts
            self._folder.save()
        elif (known["sha256"], known["dtype"]) != (info.sha256, info.dtype):
            raise ValueError(
                f"--teacher {self._settings.teacher}: began with the weights "
                f"{known['sha256'][:12]} in {known['dtype']}, got {info.sha256[:12]} in "
                f"{info.dtype}: serve those again to continue, or start over with --anew"
            )

    def _check_time(self, evaluation_s: float) -> None:
        least_s = self._settings.rounds * _FEWEST_EVALUATIONS * evaluation_s
        if least_s > _LARGEST_SHARE * self._end_s:
            minutes = math.ceil(least_s / _LARGEST_SHARE / 60.0)
            raise ValueError(
                f"--minutes: expected at least {minutes} for this teacher, which takes "
                f"{evaluation_s:.2g} s for an evaluation, got {self._settings.minutes:g}"
            )

    def _write_start(self, number: int) -> None:
        """Write the system that is measured: that of a walker at the temperature asked for."""
        walk = next(
            (
                each
                for each in walks_of(len(self._systems), self._settings, number)
                if each.system == 0
                and each.scale == 1.0
                and each.temperature_k == self._settings.temperature_k
                and not each.is_test
            ),
            None,
        )
        path = self._folder.round(number) / "walkers.npz"
        atoms = self._systems[0].copy()
        with np.load(path) as saved:
            if walk is not None and f"{walk.key}/positions" in saved:
                atoms.positions[:] = saved[f"{walk.key}/positions"]
                atoms.set_momenta(saved[f"{walk.key}/momenta"], apply_constraint=False)
        atoms.calc = None
        atoms.info = {}
        ase.io.write(measurement.start_file(self._folder), atoms, format="extxyz")

    def _train(self, number: int, phase: Phase, deadline: Deadline) -> None:
        del deadline  # the program keeps its time by itself
        while True:
            try:
                self._train_for(number, phase.allotted_s / 60.0)
                break
            except ChildFailedError as error:
                minutes = minutes_needed(error)
                if minutes is None:
                    raise
                if minutes > max(self._settings.minutes, _START_UP_MINUTES):
                    raise ValueError(
                        f"--minutes: expected more than {minutes:.1f}, which training needs on "
                        f"this machine for its part alone, got {self._settings.minutes:g}"
                    ) from error
                phase.allotted_s = max(60.0 * minutes, phase.allotted_s) * _MORE_TIME
                self._folder.save()
        phase.facts = {"errors": metadata_of(self._folder.trained(number)).get("errors", {})}
        export(self._folder.trained(number), self._folder.student)

    def _train_for(self, number: int, minutes: float) -> None:
        folder = self._folder
        train(
            folder.round(number) / "train",
            folder.data,
            self._settings,
            about=self._about(),
            start=folder.trained(number - 1) if number else None,
            minutes=minutes,
            log=folder.logs / f"train-{number}.log",
            progress=self._progress,
        )

    def _about(self) -> dict[str, Any]:
        teacher: Mapping[str, Any] = self._folder.phases["sample-0"].facts["teacher"]
        atoms = self._systems[0]
        temperatures = [*self._settings.temperatures_k]
        return {
            "teacher": self._settings.teacher,
            "teacher_sha256": teacher["sha256"],
            "description": (
                f"Direct forces distilled from {self._settings.teacher} for "
                f"{atoms.get_chemical_formula()} at {', '.join(f'{t:g}' for t in temperatures)} K, "
                "to drive multiple time stepping under it."
            ),
            "temperatures_k": temperatures,
        }

    def _measure(self, phase: Phase, deadline: Deadline) -> None:
        self._services.close()  # the service that measures has the teacher too
        period = self._period_fs()
        atoms = self._start()
        found = measurement.measure(
            self._source,
            atoms,
            self._folder,
            self._settings,
            period,
            deadline,
            self._progress,
        )
        phase.facts = {
            "errors": found.errors,
            "lambda": found.nonconservativity,
            "notes": found.notes,
            "period_fs": period,
        }

    def _start(self) -> Atoms:
        """Return the system that is measured, with its masses."""
        atoms = ase.io.read(measurement.start_file(self._folder))
        take_masses(atoms)
        return atoms

    def _evidence(self, assessment: Mapping[str, Any]) -> Evidence:
        period = self._folder.phases["measure"].facts["period_fs"]
        lightest = float(self._start().get_masses().min())
        return measurement.evidence_of(assessment, self._settings, period, lightest)

    def _assessment(self) -> Mapping[str, Any]:
        path = self._folder.path / "assessment" / "report.json"
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def _period_fs(self) -> float | None:
        """Return the shortest vibrational period, from the longest trajectory of any round."""
        found = [
            vibration
            for phase in self._folder.phases.values()
            if (vibration := phase.facts.get("vibration"))
        ]
        if not found:
            return None
        return period_fs(max(found, key=lambda each: each["length_fs"])["wave_number"])


def _with_masses(atoms: Atoms, settings: DistillSettings) -> Atoms:
    """Return a copy of atoms, with heavier hydrogens if they are asked for."""
    copy = atoms.copy()
    if settings.hydrogen_mass:
        repartition_hydrogen_mass(copy, settings.hydrogen_mass)
    return copy
