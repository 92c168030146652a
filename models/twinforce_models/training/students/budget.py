"""The number of epochs that fit into a time, from the time of trial steps."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from twinforce_models.training.config import Stage
from twinforce_models.training.errors import measure_errors
from twinforce_models.training.trainer import Trainer

_MARGIN = 0.94  # of the time left; the rest is for steps that are slower than the trial steps
_MAX_EVALUATIONS = 20  # of the test systems, besides those at the ends of stages
_EVALUATION_SHARE = 0.05  # of the time left that these may take
_N_TRIALS = 6


@dataclass(frozen=True, slots=True)
class StageTimes:
    """The times that a stage of training takes.

    Attributes:
        epoch_s: Time of an epoch, in s.
        evaluation_s: Time to evaluate the test systems once, in s.
    """

    epoch_s: float
    evaluation_s: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """The number of epochs of each stage, and of those between evaluations of the test systems."""

    epochs: tuple[int, ...]
    evaluate_every: int


def measure_times(trainer: Trainer, stage: Stage) -> StageTimes:
    """Return the times of a stage, from trial steps that do not change the trainer's weights."""
    trial = trainer.scratch()
    evaluate = trial.evaluate_of(stage)
    epoch_s = 0.0
    for shape in {sample.shape for sample in trial.train}:
        samples = [sample for sample in trial.train if sample.shape == shape]
        chosen = (samples * _N_TRIALS)[:_N_TRIALS]
        seconds = [_seconds_of(partial(trial.take_step, stage, each, 0.0)) for each in chosen]
        epoch_s += len(samples) * statistics.median(seconds)
    evaluation_s = _seconds_of(partial(measure_errors, evaluate, trial.mean_parameters, trial.test))
    return StageTimes(epoch_s, evaluation_s)


def _seconds_of(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def schedule(
    times: Sequence[StageTimes], shares: Sequence[float], *, minutes: float, spent_s: float
) -> Schedule:
    """Return the schedule that fills a time.

    Args:
        times: Times of each stage.
        shares: Share of the time that each stage gets; their sum is 1.
        minutes: Time for everything, in minutes.
        spent_s: Part of it that is needed before and after all stages, in s.

    Raises:
        ValueError: If one epoch of each stage takes longer.
    """
    usable = _MARGIN * (60 * minutes - spent_s)
    least = sum(each.epoch_s + each.evaluation_s for each in times)
    if usable < least:
        needed = (least / _MARGIN + spent_s) / 60
        raise ValueError(
            f"minutes: expected at least {math.ceil(10 * needed) / 10:.1f} for one epoch of each "
            f"stage with this many systems on this machine, got {minutes:g}"
        )
    each_evaluation_s = max(each.evaluation_s for each in times)
    for_evaluations = min(_EVALUATION_SHARE * usable, _MAX_EVALUATIONS * each_evaluation_s)
    for_epochs = max(usable - least - for_evaluations, 0.0)
    epochs = tuple(
        1 + int(for_epochs * share / each.epoch_s)
        for each, share in zip(times, shares, strict=True)
    )
    n_evaluations = int(for_evaluations / each_evaluation_s)
    return Schedule(epochs, math.ceil((sum(epochs) + 1) / (n_evaluations + 1)))
