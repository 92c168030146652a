"""Mean absolute errors of energies and of both kinds of forces during training."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twinforce_models.training.dataset import Sample
from twinforce_models.training.steps import Evaluate, Evaluation, inputs


@dataclass(slots=True)
class Errors:
    """Sums of absolute errors over samples.

    Attributes:
        conservative_forces: Sum over force components, in eV/Å.
        direct_forces: Sum over force components, in eV/Å.
        energy: Sum over systems of the error per atom, in eV.
        n_components: Number of force components in the sums.
        n_systems: Number of systems in the sum.
        direct_squares: Sum of squares of the errors of direct forces, in (eV/Å)².
        change_squares: Sum of squares of the change of these errors between twins, in (eV/Å)².
        n_changes: Number of force components of systems with a twin.
    """

    conservative_forces: float = 0.0
    direct_forces: float = 0.0
    energy: float = 0.0
    n_components: int = 0
    n_systems: int = 0
    direct_squares: float = 0.0
    change_squares: float = 0.0
    n_changes: int = 0

    def add(self, evaluation: Evaluation, sample: Sample) -> None:
        """Add the errors of a sample."""
        is_real = sample.membership.sum(0, dtype=torch.bool)
        n_atoms = sample.membership.sum(1)
        with torch.no_grad():
            for name in ("conservative_forces", "direct_forces"):
                error = (getattr(evaluation, name) - sample.force_labels)[is_real]
                setattr(self, name, getattr(self, name) + float(error.abs().sum()))
            error = (evaluation.direct_forces - sample.force_labels)[is_real]
            self.direct_squares += float(error.square().sum())
            self._add_changes(evaluation, sample)
            error = (evaluation.energy - sample.energy_labels) / n_atoms.clamp(min=1.0)
            self.energy += float(error.abs().sum())
        self.n_components += 3 * int(is_real.sum())
        self.n_systems += int((n_atoms > 0).sum())

    def _add_changes(self, evaluation: Evaluation, sample: Sample) -> None:
        error = evaluation.direct_forces - sample.force_labels
        has_twin = sample.twin != torch.arange(len(sample.twin))
        changes = (error - error.index_select(0, sample.twin))[has_twin]
        self.change_squares += float(changes.square().sum())
        self.n_changes += changes.numel()

    def as_row(self, prefix: str, *, conservative: bool) -> dict[str, float]:
        """Return the mean errors for the log, in meV/Å and meV/atom."""
        row = {
            f"{prefix}_direct_mae": 1e3 * self.direct_forces / self.n_components,
            f"{prefix}_energy_mae": 1e3 * self.energy / self.n_systems,
        }
        if conservative:
            row[f"{prefix}_conservative_mae"] = 1e3 * self.conservative_forces / self.n_components
        return row

    def rmse_row(self, prefix: str) -> dict[str, float]:
        """Return root mean square errors of direct forces for the log, in meV/Å.

        That of the change of the error between twins is left out if there are no twins.
        """
        row = {f"{prefix}_direct_rmse": 1e3 * (self.direct_squares / self.n_components) ** 0.5}
        if self.n_changes:
            row[f"{prefix}_change_rmse"] = 1e3 * (self.change_squares / self.n_changes) ** 0.5
        return row

    def summary(self, *, conservative: bool) -> str:
        """Return the mean errors in one line."""
        row = self.as_row("test", conservative=conservative)
        return ", ".join(f"{name.split('_')[1]} {value:.1f}" for name, value in row.items())


def measure_errors(
    evaluate: Evaluate, parameters: Sequence[Tensor], samples: Sequence[Sample]
) -> Errors:
    """Return the errors on the samples with the given parameters."""
    errors = Errors()
    # As in training: the evaluation of anything else would be compiled once more.
    parameters = [torch.nn.Parameter(each.detach()) for each in parameters]
    for sample in samples:
        with torch.enable_grad():  # an evaluation that is not compiled needs autograd
            evaluation = Evaluation(*evaluate(parameters, *inputs(sample)))
        errors.add(evaluation, sample)
    return errors
