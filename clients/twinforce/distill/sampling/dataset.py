"""The labeled systems that a round adds to the data of training."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from twinforce.distill.sampling.labels import LabeledGroup, write_examples
from twinforce.distill.sampling.sampling_round import LabeledTrajectory, initial_atoms
from twinforce.distill.sampling.selection import select_groups
from twinforce.distill.sampling.vibrations import highest_vibration
from twinforce.distill.settings import DistillSettings

# Share of the first trajectory of the test during which it leaves the start, which trains too.
_SETTLING = 0.3
_TEST_SHARE = 0.25


def write_round(
    path: Path,
    trajectories: Sequence[LabeledTrajectory],
    systems: Sequence[Atoms],
    settings: DistillSettings,
    number: int,
) -> dict[str, Any]:
    """Choose labeled systems of a round, write them, and return facts on the round.

    Args:
        path: File to write.
        trajectories: Everything that was sampled in the round.
        systems: Systems that the walkers started from.
        settings: Settings of the distillation.
        number: Number of the round.
    """
    training = _groups((each for each in trajectories if not each.walk.is_test), systems)
    testing = _groups((each for each in trajectories if each.walk.is_test), systems)
    if number == 0:
        testing = testing[int(_SETTLING * len(testing)) :]
    n_labels = settings.n_labels(len(systems[0]), number)
    rng = np.random.default_rng([settings.seed, number])
    chosen = select_groups(training, n_labels, rng)
    tests = select_groups(testing, max(int(_TEST_SHARE * n_labels), 2), rng)
    numbered = [*((group, "train") for group in chosen), *((group, "test") for group in tests)]
    examples = [
        example
        for index, (group, split) in enumerate(numbered)
        for example in group.examples(split, 1_000_000 * number + index, number)
    ]
    write_examples(path, examples)
    return {
        "inner_steps": settings.inner_steps(number),
        "n_sampled": sum(len(each.labels) for each in trajectories),
        "n_train": sum(len(group.members) for group in chosen),
        "n_test": sum(len(group.members) for group in tests),
        "walkers": [_described(each) for each in trajectories],
        "vibration": highest_vibration(trajectories),
    }


def _groups(
    trajectories: Iterable[LabeledTrajectory], systems: Sequence[Atoms]
) -> list[LabeledGroup]:
    return [
        LabeledGroup(
            each.labels, members, initial_atoms(each.walk, systems), each.walk.temperature_k
        )
        for each in trajectories
        for members in each.labels.groups()
    ]


def _described(trajectory: LabeledTrajectory) -> dict[str, Any]:
    """Return the facts on a walker that the report shows."""
    labels, walk = trajectory.labels, trajectory.walk
    differences = labels.disagreements[np.isfinite(labels.disagreements)]
    return {
        "system": walk.system,
        "scale": walk.scale,
        "temperature_k": walk.temperature_k,
        "is_test": walk.is_test,
        "n_labels": len(labels),
        "picoseconds": float(labels.steps_fs.sum()) * 1e-3,
        "mean_temperature_k": float(labels.temperatures_k.mean()) if len(labels) else None,
        "disagreement": float(np.sqrt(np.mean(differences**2))) if len(differences) else None,
        "note": trajectory.note,
        "is_fallback": trajectory.is_fallback,
    }
