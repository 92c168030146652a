"""The measurement of a student: its errors, and multiple time stepping under the teacher."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ase import Atoms

from twinforce._client import Client
from twinforce.ase import system_of
from twinforce.assess import Conditions, Progress, assess
from twinforce.assess.budget import Deadline
from twinforce.assess.folder import write_json
from twinforce.assess.report.content import resonance_of, unit_of
from twinforce.distill.folder import DistillFolder
from twinforce.distill.joined import JoinedClient, ServedModel
from twinforce.distill.programs.children import ChildFailedError
from twinforce.distill.programs.services import running_service
from twinforce.distill.results.errors import errors_of, test_systems
from twinforce.distill.results.recommendation import (
    THERMOSTAT,
    Evidence,
    next_to_run,
    recommend,
    step_ms_of,
)
from twinforce.distill.settings import DistillSettings
from twinforce.distill.teacher import TeacherSource
from twinforce_proto import ServiceError

HYBRID, STUDENT = "hybrid", "student"
PRESET = "standard"
# Shares of the time that is left when a measurement begins.
_COST, _RESONANCE, _RUN, _THERMOSTAT, _RUN_ON = 0.15, 0.4, 0.5, 0.7, 0.5
# The cost of steps is measured in any case: nothing can be recommended without it.
_LEAST_COST_S = 10.0
# Share of the time that compilation may take, and the seconds that it gets in any case.
_COMPILATION, _LEAST_COMPILATION_S = 0.25, 120.0
# Inner steps between corrections in the run that predicts drifts: the fewest that time allows.
_STRIDES = (1, 2, 4)
# Length that the prediction should have, and that a run with a thermostat needs at least, in fs.
_RESONANCE_FS, _NVT_FS = 500.0, 2_000.0
# Steps that a run with the teacher alone needs at least, to show anything.
_FEWEST_STEPS = 500
# Largest system of which the service computes λ by itself.
_MOST_ATOMS = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The results of the measurements of a student.

    Attributes:
        errors: Errors of the student of each round, by its number.
        nonconservativity: λ of the student's direct forces; None if it was not measured.
        notes: Sentences on what was not measured, and why.
    """

    errors: Mapping[str, Any]
    nonconservativity: float | None
    notes: tuple[str, ...]


def conditions_of(settings: DistillSettings) -> Conditions:
    """Return the conditions of the measurements; the system is equilibrated already."""
    return Conditions(
        temperature_k=settings.temperature_k,
        time_step_fs=settings.time_step_fs,
        equilibration_ps=0.0,
        seed=settings.seed,
    )


def measure(
    source: TeacherSource,
    atoms: Atoms,
    folder: DistillFolder,
    settings: DistillSettings,
    period_fs: float | None,
    deadline: Deadline,
    progress: Progress,
) -> Measured:
    """Measure the student as far as time allows; finished parts are not repeated.

    Args:
        source: Place of the teacher.
        atoms: The equilibrated system, with velocities.
        folder: Folder of the distillation.
        settings: Settings of the distillation.
        period_fs: Shortest vibrational period, in fs, if it is known.
        deadline: Time at which to stop.
        progress: Where to show progress.
    """
    notes: list[str] = []
    with _students(folder, settings) as client:
        errors = _errors(client, folder, settings)
        nonconservativity = _nonconservativity(client, atoms, settings, notes)
    with _hybrid(source, folder, settings, notes, deadline) as client:
        assessing = _Assessing(client, atoms, folder, settings, period_fs, deadline, progress)
        assessing.run()
    notes += assessing.notes
    return Measured(errors, nonconservativity, tuple(notes))


def evidence_of(
    assessment: Mapping[str, Any],
    settings: DistillSettings,
    period_fs: float | None,
    lightest_amu: float,
) -> Evidence:
    """Return the numbers in an assessment that the recommendation follows from."""
    drifts = resonance_of(assessment).get("drifts", {})
    ways = unit_of(assessment, "cost").get("ways", {})
    judgments = assessment["verdict"]["judgements"]
    runs = {
        int(key.removeprefix("nve:hybrid-")): unit
        for key, unit in assessment["pieces"].get("nve", {}).items()
        if key.startswith("nve:hybrid-") and unit["status"] in ("done", "shortened", "stopped")
    }
    return Evidence(
        time_step_fs=settings.time_step_fs,
        period_fs=period_fs,
        predicted={int(m): each for m, each in drifts.items()},
        step_ms={way: each["step_ms"]["median"] for way, each in ways.items()},
        runs=runs,
        thermostat={
            int(each["subject"].split(":")[1].removeprefix("hybrid-")): each["finding"]
            for each in judgments
            if each["topic"] == "temperature" and each["subject"].startswith("nvt:hybrid-")
        },
        max_drift=assessment["thresholds"]["max_drift"],
        lightest_amu=lightest_amu,
    )


@contextmanager
def _students(folder: DistillFolder, settings: DistillSettings) -> Iterator[Client]:
    """Serve the student of each round, without compilation, as they are evaluated a few times."""
    models = {_name_of(number): str(folder.trained(number)) for number in range(settings.rounds)}
    options = replace(settings.service, is_compiled=False)
    log = folder.logs / "students.log"
    with running_service(models, options, log, "the service of the students") as client:
        yield client


@contextmanager
def _hybrid(
    source: TeacherSource,
    folder: DistillFolder,
    settings: DistillSettings,
    notes: list[str],
    deadline: Deadline,
) -> Iterator[Client]:
    """Serve the hybrid of the teacher and the student; note if that differs from its later use."""
    with ExitStack() as stack:
        if source.is_spec:
            models = {HYBRID: f"conservative:{source.text}+direct:{folder.student}"}
            yield stack.enter_context(_compiled(models, folder, settings, notes, deadline))
            return
        spec = f"conservative:{folder.student}+direct:{folder.student}"
        models = {STUDENT: spec}
        own = stack.enter_context(_compiled(models, folder, settings, notes, deadline))
        teacher = stack.enter_context(source.served(folder.logs / "teacher.log"))
        joined = JoinedClient(teacher, ServedModel(own, own.model(STUDENT)), name=HYBRID)
        notes.append(
            f"The teacher was measured in the running service at {source.url} and the student in "
            "one of its own, so each correction took two requests; one service for both is faster."
        )
        yield cast(Client, joined)


@contextmanager
def _compiled(
    models: Mapping[str, str],
    folder: DistillFolder,
    settings: DistillSettings,
    notes: list[str],
    deadline: Deadline,
) -> Iterator[Client]:
    """Serve models, with compiled networks if that does not take too long here."""
    log, title = folder.logs / "hybrid.log", "the service of the hybrid"
    timeout_s = max(_COMPILATION * deadline.seconds_left, _LEAST_COMPILATION_S)
    with ExitStack() as stack:
        try:
            served = running_service(
                models,
                settings.service,
                log,
                title,
                waits_for_compilation=True,
                timeout_s=timeout_s,
            )
            client = stack.enter_context(served)
        except ChildFailedError as error:
            if not settings.service.is_compiled:
                raise
            options = replace(settings.service, is_compiled=False)
            client = stack.enter_context(running_service(models, options, log, title))
            notes.append(
                "The student was measured uncompiled, which makes its steps slower than they will "
                f"be: {error}."
            )
        yield client


def _name_of(number: int) -> str:
    return f"{STUDENT}-{number}"


def _errors(client: Client, folder: DistillFolder, settings: DistillSettings) -> dict[str, Any]:
    """Return the errors of the student of each round, which are kept in a file."""
    systems = test_systems(folder.data)
    errors = {
        str(number): errors_of(client, _name_of(number), systems)
        for number in range(settings.rounds)
    }
    write_json(folder.path / "measured.json", {"errors": errors})
    return errors


def _nonconservativity(
    client: Client, atoms: Atoms, settings: DistillSettings, notes: list[str]
) -> float | None:
    if len(atoms) > _MOST_ATOMS:
        notes.append(f"λ was not measured: the system has more than {_MOST_ATOMS} atoms.")
        return None
    try:
        return client.nonconservativity(system_of(atoms), _name_of(settings.rounds - 1)).value
    except ServiceError as error:
        notes.append(f"λ was not measured: {error}.")
        return None


class _Assessing:
    """An assessment of multiple time stepping, made piece by piece within a time.

    Args:
        client: Client of the hybrid.
        atoms: The equilibrated system.
        folder: Folder of the distillation.
        settings: Settings of the distillation.
        period_fs: Shortest vibrational period, in fs, if it is known.
        deadline: Time at which to stop.
        progress: Where to show progress.

    Attributes:
        report: Report of the assessment so far.
        notes: Sentences on what was left out, and why.
    """

    def __init__(
        self,
        client: Client,
        atoms: Atoms,
        folder: DistillFolder,
        settings: DistillSettings,
        period_fs: float | None,
        deadline: Deadline,
        progress: Progress,
    ) -> None:
        self._client, self._atoms = client, atoms
        self._out = folder.path / "assessment"
        self._settings, self._period_fs = settings, period_fs
        self._deadline, self._progress = deadline, progress
        self.report: Mapping[str, Any] = {}
        self.notes: list[str] = []

    def run(self) -> None:
        """Predict drifts, verify the recommendation by a real run, and go on as time allows."""
        self._assess("cost", _COST, least_s=_LEAST_COST_S)
        self._assess(self._resonance(), _RESONANCE)
        self._verify()
        if (chosen := recommend(self._evidence()).inner_steps) is None:
            self._assess("nve:conservative", 1.0)
            return
        evidence = self._evidence()
        outer_s = _outer_step_s(evidence, chosen)
        n_outer = _NVT_FS / (chosen * self._settings.time_step_fs)
        if n_outer * outer_s <= _THERMOSTAT * self._deadline.seconds_left:
            self._assess(f"nvt:hybrid-{chosen}:{THERMOSTAT}", _THERMOSTAT)
        elif f"nvt:hybrid-{chosen}:{THERMOSTAT}" not in self.report["pieces"].get("nvt", {}):
            minutes = n_outer * outer_s / 60.0
            self.notes.append(
                f"A run with a thermostat was left out: {_NVT_FS * 1e-3:g} ps of it would have "
                f"taken {minutes:.0f} minutes."
            )
        self._assess(f"nve:hybrid-{chosen}", _RUN_ON)
        if _outer_step_s(evidence, 1) * _FEWEST_STEPS <= self._deadline.seconds_left:
            self._assess("nve:conservative", 1.0)
        else:
            self._assess(f"nve:hybrid-{chosen}", 1.0)

    def _verify(self) -> None:
        """Run the fastest candidate, and if that does not show it a shorter outer step."""
        tried: set[int] = set()
        while not self._deadline.is_over:
            chosen = next_to_run(self._evidence())
            if chosen is None or chosen in tried:  # its run did not fit into the time
                return
            tried.add(chosen)
            self._assess(f"nve:hybrid-{chosen}", _RUN)

    def _resonance(self) -> str:
        """Return the piece that predicts drifts, with a stride that the time suffices for."""
        evidence, dt = self._evidence(), self._settings.time_step_fs
        seconds = _RESONANCE * self._deadline.seconds_left
        is_timed = "conservative" in evidence.step_ms  # else the teacher is very slow
        for stride in _STRIDES[:-1] if is_timed else ():
            if _RESONANCE_FS / (stride * dt) * _outer_step_s(evidence, stride) <= seconds:
                return "resonance" if stride == 1 else f"resonance:{stride}"
        return f"resonance:{_STRIDES[-1]}"

    def _evidence(self) -> Evidence:
        lightest = float(self._atoms.get_masses().min())
        return evidence_of(self.report, self._settings, self._period_fs, lightest)

    def _assess(self, piece: str, share: float, least_s: float = 0.0) -> None:
        self.report = assess(
            self._client,
            self._atoms,
            self._out,
            model=HYBRID,
            preset=PRESET,
            pieces=[piece],
            conditions=conditions_of(self._settings),
            budget_minutes=max(share * self._deadline.seconds_left, least_s) / 60.0,
            progress=self._progress,
        )


def _outer_step_s(evidence: Evidence, inner_steps: int) -> float:
    """Return the time of an outer step, in s; 0 if it was not measured."""
    return 1e-3 * inner_steps * (step_ms_of(evidence, inner_steps) or 0.0)


def start_file(folder: DistillFolder) -> Path:
    """Return the file of the equilibrated system."""
    return folder.path / "start.xyz"
