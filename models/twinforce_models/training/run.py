"""A training run: its data, samples and network, and the report of its result."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from numpy.typing import NDArray

from twinforce_models import registry
from twinforce_models.potentials.hybrid_net.core import HybridCore
from twinforce_models.potentials.hybrid_net.potential import HybridNet
from twinforce_models.training import bundle, dataset, packing, plots, report, sampling
from twinforce_models.training.config import About, Recipe
from twinforce_models.training.trainer import Trainer


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TrainingRun:
    """A trainer that is ready to run, and what its model needs besides the weights.

    Attributes:
        trainer: Trainer; it resumes from the checkpoint in its folder if there is one.
        reference_energies: Reference energy of each element, in eV.
        test_examples: Examples that are kept out of training.
        start: Metadata of the model that training starts from, or None.
    """

    trainer: Trainer
    reference_energies: NDArray[np.float64]
    test_examples: list[ase.Atoms]
    start: Mapping[str, Any] | None = None

    def potential(self) -> HybridNet:
        """Return a potential with the moving average of the weights."""
        core = copy.deepcopy(self.trainer.core)
        with torch.no_grad():
            for parameter, mean in zip(
                core.parameters(), self.trainer.mean_parameters, strict=True
            ):
                parameter.copy_(mean)
        return HybridNet(core, torch.from_numpy(self.reference_energies))


def prepare(
    recipe: Recipe, data: Path, folder: Path, *, is_compiled: bool, start: str | None = None
) -> TrainingRun:
    """Split the data, make the samples and create the network.

    Args:
        recipe: Recipe of the training.
        data: Folder of extended XYZ files.
        folder: Folder of all output.
        is_compiled: True if steps are compiled.
        start: Name or folder of the model to start from. None: the initial weights are random.

    Raises:
        ValueError: If `start` has other hyperparameters than the recipe, or is missing although the
            recipe has sampling.
    """
    examples = dataset.read_examples(data)
    h = recipe.hyperparameters
    corrected = dataset.with_stress_offsets(examples, h.elements, recipe.stress_offsets)
    train, test = dataset.split_examples(corrected, recipe)
    dataset.group_examples(corrected, recipe)  # raises if twins lie in different parts
    metadata = None
    if start is None:
        references = dataset.fit_reference_energies(train, h.elements)
        core = _new_core(recipe, train)
    else:
        potential, metadata = _load_start(start, recipe)
        references, core = potential.reference_energies.numpy(), copy.deepcopy(potential.core)
        core.requires_grad_(True)
    scales = dataset.error_scales(train, h.elements, recipe.balance)
    groups = dataset.group_examples(train, recipe)
    if recipe.sampling is not None:
        if start is None:
            raise ValueError("start: expected a model to start from, as the recipe has sampling")
        groups += sampling.sampled_examples(potential, train, recipe, folder)
    tabulator = dataset.Tabulator(h.elements, h.cutoff, references, scales)
    train_samples, test_samples = packing.make_samples(
        [groups, dataset.group_examples(test, recipe)], tabulator, recipe
    )
    keys = (recipe.split_key, recipe.group_key) if recipe.group_key else ()
    trainer = Trainer(
        recipe,
        core,
        train_samples,
        test_samples,
        folder,
        data_sha256=dataset.data_sha256(examples, keys),
        is_compiled=is_compiled,
    )
    return TrainingRun(trainer, references, test, metadata)


def _new_core(recipe: Recipe, train: Sequence[ase.Atoms]) -> HybridCore:
    torch.manual_seed(recipe.seed)
    core = HybridCore(recipe.hyperparameters)
    forces = np.concatenate([example.get_forces() for example in train])
    scale = float(np.square(forces).mean()) ** 0.5
    core.force_scale.fill_(scale)
    core.energy_scale.fill_(scale)
    return core


def _load_start(start: str, recipe: Recipe) -> tuple[HybridNet, Mapping[str, Any]]:
    loaded = registry.load(start, device="cpu", dtype=torch.float32)
    potential = loaded.potential
    if not isinstance(potential, HybridNet) or (
        potential.core.hyperparameters != recipe.hyperparameters
    ):
        raise ValueError(
            f"start: expected a model with the hyperparameters of the recipe, got {start!r}"
        )
    return potential, loaded.info.metadata


def write_report(
    run: TrainingRun, about: About, folder: Path, *, with_nonconservativity: bool = True
) -> None:
    """Write the model with its errors on the test examples, and plots; print the errors.

    Args:
        run: Run whose training has ended.
        about: Text for the metadata and the card.
        folder: Folder of all output.
        with_nonconservativity: True to measure λ too, which takes three backward passes per atom.
    """
    recipe, potential = run.trainer.recipe, run.potential()
    examples = run.test_examples
    predictions = report.predict_each(potential, examples)
    comparisons = report.compare(examples, predictions)
    errors = {"n_test_systems": float(len(examples))} | report.errors_of(comparisons)
    errors |= report.change_of(dataset.group_examples(examples, recipe), predictions)
    if with_nonconservativity:
        errors |= report.nonconservativity_of(potential, examples)
    measured = {
        "errors": errors,
        "errors_by_elements": report.errors_by_elements(examples, predictions),
        "force_disagreement": report.force_disagreement(examples, predictions),
    }
    bundle.export(run.trainer, about, potential, measured, folder / "model", start=run.start)
    plots.plot_learning({recipe.name: plots.read_log(folder / "log.csv")}, folder / "learning.png")
    plots.plot_parity(
        {report.title(name): (each.labels, each.predictions) for name, each in comparisons.items()},
        folder / "parity.png",
    )
    for name, value in errors.items():
        print(f"{name:45} {value:.4g}")  # noqa: T201
