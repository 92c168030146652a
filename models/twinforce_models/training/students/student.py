"""Training of a student: a recipe made from a preset, the data and the time that it may take."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ase
import numpy as np

from twinforce_models import registry
from twinforce_models.potentials.hybrid_net.compilation.compiler import (
    compiler_name,
    has_compiler,
)
from twinforce_models.potentials.hybrid_net.core import Hyperparameters
from twinforce_models.potentials.hybrid_net.potential import neighbor_counts
from twinforce_models.prediction import predict
from twinforce_models.training import dataset, packing
from twinforce_models.training.config import (
    About,
    CompiledPart,
    LabelingModel,
    Recipe,
    Stage,
    read_recipe,
)
from twinforce_models.training.report import QUANTITIES
from twinforce_models.training.run import TrainingRun, prepare
from twinforce_models.training.students import budget
from twinforce_models.training.students.presets import PRESETS, StudentPreset
from twinforce_models.training.toml import recipe_text

logger = logging.getLogger(__name__)

_KEYS = ("split", "group")  # of the `info` of each system
_AROUND_S = 10.0  # to load the libraries, draw the plots and write the model


@dataclass(frozen=True, slots=True)
class StudentOrder:
    """The choices of a user for a student.

    Attributes:
        preset: Name of a preset.
        minutes: Time for everything, in minutes.
        name: Name of the model.
        seed: Seed of the training.
        start: Name or folder of an earlier student to start from, or None.
        teacher: Description of the model that labeled the data, or None.
    """

    preset: str
    minutes: float
    name: str = "student"
    seed: int = 1
    start: str | None = None
    teacher: LabelingModel | None = None


def prepare_student(
    order: StudentOrder, data: Path, folder: Path, *, is_compiled: bool, started: float
) -> tuple[TrainingRun, About]:
    """Return the run of a student; its recipe is written to `folder`/recipe.toml.

    A later call with the same arguments uses the recipe that is there.

    Args:
        order: Choices of the user.
        data: Folder of extended XYZ files.
        folder: Folder of all output.
        is_compiled: True if steps are compiled.
        started: Time when the process began, as by `time.monotonic`.

    Raises:
        ValueError: If the data are unsuitable, the time is too short, or the folder has another
            student.
    """
    recipe_file, order_file = folder / "recipe.toml", folder / "student.json"
    examples = dataset.read_examples(data)
    described = json.dumps(_described(order, examples), indent=2) + "\n"
    if recipe_file.exists():
        _check_same(order_file, described)
        recipe, about = read_recipe(recipe_file)
        return prepare(recipe, data, folder, is_compiled=is_compiled, start=order.start), about
    draft, about = draft_recipe(order, examples), about_student(order)
    run = prepare(draft, data, folder, is_compiled=is_compiled, start=order.start)
    recipe = scheduled(run, order, started)
    run.trainer.recipe = recipe
    folder.mkdir(parents=True, exist_ok=True)
    order_file.write_text(described)
    comment = f"Recipe of a student by the preset {order.preset}, for {order.minutes:g} minutes."
    partial = recipe_file.with_suffix(".partial")
    partial.write_text(recipe_text(recipe, about, comment))
    partial.replace(recipe_file)
    return run, about


def _described(order: StudentOrder, examples: Sequence[ase.Atoms]) -> dict[str, Any]:
    """Return what determines the recipe, for comparison with a later call."""
    return asdict(order) | {"data_sha256": dataset.data_sha256(examples, _KEYS)}


def _check_same(order_file: Path, described: str) -> None:
    if order_file.read_text() != described:
        raise ValueError(
            f"{order_file}: expected the arguments of the call that began this student, got others;"
            " choose another folder for another student"
        )


def draft_recipe(order: StudentOrder, examples: Sequence[ase.Atoms]) -> Recipe:
    """Return the recipe of a student with one epoch per stage.

    Raises:
        ValueError: If the data have no training or no test systems, if an element is none, or if
            the model to start from does not fit.
    """
    p = PRESETS[order.preset]
    draft = Recipe(
        name=order.name,
        seed=order.seed,
        test_fraction=0.0,
        hyperparameters=hyperparameters_of(p, order.start, examples),
        stages=draft_stages(p),
        force_tolerance=_rounded(p.force_tolerance * rms_force(examples)),
        energy_tolerance=p.energy_tolerance,
        ema_decay=0.99,
        max_gradient_norm=10.0,
        weight_decay=p.weight_decay,
        evaluate_every=1,
        split_key=_KEYS[0],
        group_key=_KEYS[1],
        optimizer=p.optimizer,
    )
    parts = dataset.split_examples(examples, draft)
    for name, part in zip(("train", "test"), parts, strict=True):
        if not part:
            raise ValueError(f"info['split']: expected systems with the value {name!r}, got none")
    dataset.group_examples(examples, draft)  # raises if twins lie in different parts
    groups = [group for part in parts for group in dataset.group_examples(part, draft)]
    sizes = [packing.GroupSize(sum(map(len, group)), len(group)) for group in groups]
    cutoff = draft.hyperparameters.cutoff
    widths = [max(dataset.max_neighbors(each, cutoff) for each in group) for group in groups]
    return replace(draft, tables=packing.choose_tables(sizes, widths, p.n_atoms_per_step))


def draft_stages(preset: StudentPreset) -> tuple[Stage, Stage]:
    """Return the stages with one epoch each.

    Compiling the sums of messages takes seconds and makes direct steps three times as fast;
    compiling whole steps takes minutes, which short trainings do not have.
    """
    direct, conservative = preset.learning_rates
    part: CompiledPart = "messages"
    if not has_compiler():
        name = compiler_name()
        logger.warning("%s is not installed: direct steps will be three times slower", name)
        part = "nothing"
    return (
        Stage("direct", 1, direct, preset.direct, compiled=part),
        Stage("conservative", 1, conservative, preset.conservative, compiled="nothing"),
    )


def shares_of(preset: StudentPreset) -> tuple[float, float]:
    """Return the shares of the time that both stages get."""
    return 1.0 - preset.conservative_share, preset.conservative_share


def hyperparameters_of(
    preset: StudentPreset, start: str | None, examples: Sequence[ase.Atoms]
) -> Hyperparameters:
    """Return the hyperparameters of a student: those of the preset, or of the model to start from.

    Raises:
        ValueError: If an element of the examples is none, or the model to start from has another
            size or lacks an element.
    """
    numbers = sorted({int(z) for example in examples for z in example.numbers})
    if numbers[0] < 1 or numbers[-1] > 118:
        raise ValueError(f"expected elements with atomic numbers from 1 to 118, got {numbers}")
    sizes = ("cutoff", "n_scalars", "n_vectors", "n_tensors", "n_layers", "n_radial")
    wanted = {name: getattr(preset, name) for name in sizes}
    if start is None:
        counts = np.concatenate(
            [neighbor_counts(dataset.to_batch([each], preset.cutoff)) for each in examples]
        )
        mean = max(round(float(counts.mean()), 1), 1.0)
        return Hyperparameters(tuple(numbers), **wanted, mean_n_neighbors=mean)
    found = registry.load(start, device="cpu").info.metadata["hyperparameters"]
    if any(found[name] != value for name, value in wanted.items()):
        raise ValueError(f"start: expected a model of the size {wanted}, got {found}")
    if missing := set(numbers) - set(found["elements"]):
        raise ValueError(
            f"start: expected a model with the elements {numbers}, got one without "
            f"{sorted(missing)}"
        )
    return Hyperparameters.from_values(found)


def rms_force(examples: Sequence[ase.Atoms]) -> float:
    """Return the root mean square of all force components, in eV/Å."""
    forces = np.concatenate([example.get_forces() for example in examples])
    return float(np.sqrt(np.square(forces).mean()))


def _rounded(value: float) -> float:
    return float(f"{max(value, 1e-4):.2g}")


def scheduled(run: TrainingRun, order: StudentOrder, started: float) -> Recipe:
    """Return the recipe of a run with the epochs that fit into the time.

    Raises:
        ValueError: If the time is too short.
    """
    recipe, shares = run.trainer.recipe, shares_of(PRESETS[order.preset])
    times = [budget.measure_times(run.trainer, stage) for stage in recipe.stages]
    before = time.monotonic()
    predict(run.potential(), [dataset.to_system(run.test_examples[0])], QUANTITIES)
    report_s = (time.monotonic() - before) * len(run.test_examples) + _AROUND_S
    spent_s = time.monotonic() - started + report_s
    plan = budget.schedule(times, shares, minutes=order.minutes, spent_s=spent_s)
    stages = tuple(
        replace(stage, epochs=epochs)
        for stage, epochs in zip(recipe.stages, plan.epochs, strict=True)
    )
    n_steps = sum(plan.epochs) * len(run.trainer.train)
    return replace(
        recipe, stages=stages, evaluate_every=plan.evaluate_every, ema_decay=ema_decay(n_steps)
    )


def ema_decay(n_steps: int) -> float:
    """Return the decay of the moving average of the weights, over about 2% of the steps."""
    return round(1.0 - 1.0 / min(max(0.02 * n_steps, 10.0), 1000.0), 4)


def about_student(order: StudentOrder) -> About:
    """Return the text of the model card of a student."""
    teacher = order.teacher
    if teacher is None:
        return About(description="A student: a small hybrid potential for one kind of system.")
    return About(
        description=f"A student of {teacher.teacher}: a small hybrid potential whose direct forces "
        "are meant as the inner forces of multiple time stepping. " + teacher.description,
        level_of_theory=f"labels by {teacher.teacher}",
        licence=teacher.licence or "not specified",
        teacher=teacher,
    )
