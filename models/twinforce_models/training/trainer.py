"""The training loop with its stages, schedule, moving average of weights, checkpoints and log.

A run that is stopped resumes from its last complete epoch and ends with bitwise the same weights as
an uninterrupted run: the order of samples depends on the seed, the stage and the epoch alone.
"""

import copy
import csv
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss
from tqdm import tqdm

from twinforce_models.potentials.hybrid_net.core import HybridCore
from twinforce_models.training.config import CompiledPart, Recipe, Stage
from twinforce_models.training.dataset import Sample
from twinforce_models.training.errors import Errors, measure_errors
from twinforce_models.training.muon import Muon
from twinforce_models.training.steps import (
    Evaluate,
    Evaluation,
    compiled,
    inputs,
    make_direct_evaluate,
    make_evaluate,
)

LOG_COLUMNS = (
    "stage", "epoch", "wall_s", "cpu_s", "learning_rate", "loss", "gradient_norm",
    "train_conservative_mae", "train_direct_mae", "train_energy_mae",
    "test_conservative_mae", "test_direct_mae", "test_energy_mae",
    "test_direct_rmse", "test_change_rmse",
)  # fmt: skip

_SAVE_EVERY_S = 10.0  # at least; epochs may be much shorter


@dataclass(slots=True)
class TrainingProgress:
    """The state of a training run that its checkpoint keeps besides the weights.

    Attributes:
        stage: Index of the current stage.
        epoch: Number of completed epochs of the stage.
        wall_s: Elapsed time of all epochs, in s.
        cpu_s: CPU time of all epochs, in s.
        rows: Rows of the log.
    """

    stage: int = 0
    epoch: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """A training run in a folder.

    Attributes:
        core: Network whose parameters are trained.
        mean_parameters: Moving average of the parameters, which is evaluated and exported.
        progress: State of the run.
        evaluations: Evaluations that have been built so far, by the values of `is_conservative` and
            `compiled` of their stages.
    """

    def __init__(
        self,
        recipe: Recipe,
        core: HybridCore,
        train: Sequence[Sample],
        test: Sequence[Sample],
        folder: Path,
        *,
        data_sha256: str,
        is_compiled: bool,
    ) -> None:
        self.recipe, self.core, self.train, self.test = recipe, core, train, test
        self.folder, self.data_sha256, self.is_compiled = folder, data_sha256, is_compiled
        self.parameters = list(core.parameters())
        self.mean_parameters = [p.detach().clone() for p in self.parameters]
        self.optimizer = self._new_optimizer()
        self.progress = TrainingProgress()
        self.evaluations: dict[tuple[bool, CompiledPart], Evaluate] = {}
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Train to the end of the last stage, from the checkpoint if there is one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint_file.exists():
            self.load()
        while self.progress.stage < len(self.recipe.stages):
            self._run_stage(self.recipe.stages[self.progress.stage])
            self.progress.stage, self.progress.epoch = self.progress.stage + 1, 0
            self.optimizer = self._new_optimizer()
            self.save()

    @property
    def checkpoint_file(self) -> Path:
        """The file with the state after the last complete epoch."""
        return self.folder / "checkpoint.pt"

    def _new_optimizer(self) -> torch.optim.Optimizer:
        decay = self.recipe.weight_decay
        if self.recipe.optimizer == "muon":
            return Muon(self.parameters, decay)
        return torch.optim.AdamW(
            self.parameters, lr=0.0, weight_decay=decay, betas=(0.9, 0.99), fused=True
        )

    def _run_stage(self, stage: Stage) -> None:
        evaluate = self.evaluate_of(stage)
        n_samples, first = len(self.train), self.progress.epoch
        with tqdm(
            total=stage.epochs * n_samples, initial=first * n_samples, desc=stage.name
        ) as bar:
            for epoch in range(first, stage.epochs):
                row = self._run_epoch(stage, epoch, bar)
                is_due = (epoch + 1) % self.recipe.evaluate_every == 0 or epoch + 1 == stage.epochs
                if is_due:
                    errors = measure_errors(evaluate, self.mean_parameters, self.test)
                    row |= errors.as_row("test", conservative=stage.is_conservative)
                    row |= errors.rmse_row("test")
                    bar.set_postfix_str(errors.summary(conservative=stage.is_conservative))
                self.progress.epoch = epoch + 1
                self.progress.rows.append(row)
                if is_due or time.monotonic() - self._saved_at > _SAVE_EVERY_S:
                    self.save()

    def scratch(self) -> "Trainer":
        """Return a trainer with a copy of the network that shares samples and compiled steps."""
        other = Trainer(
            self.recipe,
            copy.deepcopy(self.core),
            self.train,
            self.test,
            self.folder,
            data_sha256=self.data_sha256,
            is_compiled=self.is_compiled,
        )
        other.evaluations = self.evaluations
        return other

    def evaluate_of(self, stage: Stage) -> Evaluate:
        """Return the evaluation of a stage; the first call for its kind of stage compiles it."""
        key = stage.is_conservative, stage.compiled
        if key not in self.evaluations:
            self.evaluations[key] = self._new_evaluation(stage)
        return self.evaluations[key]

    def _new_evaluation(self, stage: Stage) -> Evaluate:
        part: CompiledPart = stage.compiled if self.is_compiled else "nothing"
        evaluate = make_evaluate(self.core, conservative=stage.is_conservative)
        if part == "nothing":
            return evaluate
        examples = {sample.shape: sample for sample in (*self.test, *self.train)}
        widths = {(t.n_atoms // t.n_systems, t.n_neighbors) for t in examples}
        if len(widths) > 1 and not self.recipe.tables:
            raise ValueError(
                "tables: expected tables in the recipe, because the systems differ in size; add "
                "tables, or train without compilation"
            )
        if part == "messages":
            evaluate = make_direct_evaluate(self.core)
        else:
            evaluate = compiled(
                evaluate, self.parameters, [inputs(sample) for sample in examples.values()]
            )
        for sample in examples.values():
            first = Evaluation(*evaluate(self.parameters, *inputs(sample)))
            stage_loss(first, sample, stage, self.recipe).backward()
        self.optimizer.zero_grad()
        return evaluate

    def _run_epoch(self, stage: Stage, epoch: int, bar: "tqdm[Any]") -> dict[str, Any]:
        """Take a step with every sample; return the row of the log."""
        wall, cpu = time.perf_counter(), time.process_time()
        errors, losses, norms, rate = Errors(), [], [], 0.0
        for n, index in enumerate(self._order(epoch)):
            rate = learning_rate(stage, (epoch + n / len(self.train)) / stage.epochs)
            sample = self.train[index]
            evaluation, loss, norm = self.take_step(stage, sample, rate)
            norms.append(norm)
            losses.append(loss)
            errors.add(evaluation, sample)
            bar.update()
        self.progress.wall_s += time.perf_counter() - wall
        self.progress.cpu_s += time.process_time() - cpu
        return {
            "stage": stage.name,
            "epoch": epoch + 1,
            "wall_s": self.progress.wall_s,
            "cpu_s": self.progress.cpu_s,
            "learning_rate": rate,
            "loss": sum(losses) / len(losses),
            "gradient_norm": sum(norms) / len(norms),
        } | errors.as_row("train", conservative=stage.is_conservative)

    def _order(self, epoch: int) -> list[int]:
        """Return the order of the samples, which depends on seed, stage and epoch alone."""
        seed = 1_000_000 * self.recipe.seed + 10_000 * self.progress.stage + epoch
        generator = torch.Generator().manual_seed(seed)
        order: list[int] = torch.randperm(len(self.train), generator=generator).tolist()
        return order

    def take_step(
        self, stage: Stage, sample: Sample, rate: float
    ) -> tuple[Evaluation, float, float]:
        """Train on a sample; return its evaluation, the loss and the norm of the gradient."""
        evaluate = self.evaluate_of(stage)
        evaluation = Evaluation(*evaluate(self.parameters, *inputs(sample)))
        loss = stage_loss(evaluation, sample, stage, self.recipe)
        loss.backward()
        return evaluation, loss.item(), self._update(rate)

    def _update(self, rate: float) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.max_gradient_norm)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        weight = 1.0 - self.recipe.ema_decay
        with torch.no_grad():
            torch._foreach_lerp_(self.mean_parameters, [*self.parameters], weight)
        return float(norm)

    def save(self) -> None:
        """Write the checkpoint and the log, each atomically."""
        state = {
            "recipe_sha256": self.recipe.sha256(),
            "data_sha256": self.data_sha256,
            "parameters": [p.detach() for p in self.parameters],
            "mean_parameters": self.mean_parameters,
            "optimizer": self.optimizer.state_dict(),
            "progress": {name: getattr(self.progress, name) for name in TrainingProgress.__slots__},
        }
        partial = self.checkpoint_file.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint_file)
        write_log(self.folder / "log.csv", self.progress.rows)
        self._saved_at = time.monotonic()

    def load(self) -> None:
        """Load the checkpoint.

        Raises:
            ValueError: If the checkpoint was written for another recipe or other data.
        """
        state = torch.load(self.checkpoint_file, weights_only=True)
        for key, own, description in (
            ("recipe_sha256", self.recipe.sha256(), "recipe"),
            ("data_sha256", self.data_sha256, "data"),
        ):
            if state[key] != own:
                raise ValueError(
                    f"{self.checkpoint_file}: expected a checkpoint for {description} with hash "
                    f"{own[:16]}, got one for {description} with hash {state[key][:16]}"
                )
        with torch.no_grad():
            for parameter, value in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(value)
        self.mean_parameters = state["mean_parameters"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = TrainingProgress(**state["progress"])


def write_log(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows as comma-separated values with the columns `LOG_COLUMNS`, atomically."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, LOG_COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    partial.replace(path)


def learning_rate(stage: Stage, progress: float) -> float:
    """Return the learning rate: a linear rise, then a half cosine down to 0.

    Args:
        stage: Stage of the schedule.
        progress: Completed fraction of the stage.
    """
    if progress < stage.warmup:
        return stage.learning_rate * max(progress / stage.warmup, 0.01)
    decay = (progress - stage.warmup) / (1 - stage.warmup)
    return stage.learning_rate * 0.5 * (1 + math.cos(math.pi * decay))


def stage_loss(evaluation: Evaluation, sample: Sample, stage: Stage, recipe: Recipe) -> Tensor:
    """Return the weighted sum of the errors that the stage trains.

    Where the data have no stress, the label of the direct stress is the model's conservative
    stress, and nothing in stages without conservative quantities.
    """
    w, atom_weights = stage.weights, sample.error_weights
    n_atoms = sample.membership.sum(1).clamp(min=1.0)
    system_weights = sample.per_system(atom_weights) / n_atoms
    energy_error = (evaluation.energy - sample.energy_labels) * system_weights
    loss = w.energy * _mean_loss(energy_error, recipe.energy_tolerance, system_weights)
    for weight, forces in (
        (w.conservative_forces, evaluation.conservative_forces),
        (w.direct_forces, evaluation.direct_forces),
    ):
        if weight:
            error = (forces - sample.force_labels) * atom_weights[:, None]
            loss = loss + weight * _mean_loss(error, recipe.force_tolerance, atom_weights)
    if w.agreement:
        error = (evaluation.direct_forces - evaluation.conservative_forces) * atom_weights[:, None]
        loss = loss + w.agreement * _mean_loss(error, recipe.force_tolerance, atom_weights)
    if w.smoothness:
        difference = evaluation.direct_forces - evaluation.conservative_forces
        twin_weights = atom_weights * (sample.twin != torch.arange(len(sample.twin)))
        change = (difference - difference.index_select(0, sample.twin)) * twin_weights[:, None]
        loss = loss + w.smoothness * _mean_loss(change, recipe.force_tolerance, twin_weights)
    if w.change:
        error = evaluation.direct_forces - sample.force_labels
        twin_weights = atom_weights * (sample.twin != torch.arange(len(sample.twin)))
        change = (error - error.index_select(0, sample.twin)) * twin_weights[:, None]
        loss = loss + w.change * _mean_loss(change, recipe.force_tolerance, twin_weights)
    labels, own = sample.strain_gradient_labels, evaluation.strain_gradient.detach()
    if not stage.is_conservative:
        own = evaluation.direct_strain_gradient.detach()
    labels = torch.where(labels.isnan(), own, labels)
    for weight, gradient in (
        (w.conservative_stress, evaluation.strain_gradient),
        (w.direct_stress, evaluation.direct_strain_gradient),
    ):
        if weight:
            error = (gradient - labels) * system_weights[:, None, None]
            loss = loss + weight * _mean_loss(error, recipe.energy_tolerance, system_weights)
    return loss


def _mean_loss(error: Tensor, tolerance: float, weights: Tensor) -> Tensor:
    """Return the mean Huber loss over the rows with a weight; rows without one are padding."""
    total = smooth_l1_loss(error, torch.zeros_like(error), beta=tolerance, reduction="sum")
    return total / (weights.count_nonzero().clamp(min=1) * (error.numel() / len(error)))
