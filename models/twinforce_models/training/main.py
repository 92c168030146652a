"""The command `twinforce-train`: train by a recipe, then write the model and how good it is."""

import argparse
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
from twinforce_models.memory import keep_freed_memory
from twinforce_models.potentials.hybrid_net.core import HybridCore
from twinforce_models.potentials.hybrid_net.potential import HybridNet
from twinforce_models.training import bundle, dataset, packing, plots, report, sampling
from twinforce_models.training.config import About, Recipe, read_recipe
from twinforce_models.training.trainer import Trainer


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A trainer at the start of a recipe, and what the data gave it.

    Attributes:
        trainer: Goes on from its folder's checkpoint when it runs.
        reference_energies: Of each element, in eV.
        test_frames: Kept out of training.
        start: Metadata of the model that training started from, if it did from any.
    """

    trainer: Trainer
    reference_energies: NDArray[np.float64]
    test_examples: list[ase.Atoms]
    start: Mapping[str, Any] | None = None

    def potential(self) -> HybridNet:
        """Return a potential with the running mean of the weights."""
        core = copy.deepcopy(self.trainer.core)
        with torch.no_grad():
            for parameter, mean in zip(
                core.parameters(), self.trainer.mean_parameters, strict=True
            ):
                parameter.copy_(mean)
        return HybridNet(core, torch.from_numpy(self.reference_energies))


def prepare(
    recipe: Recipe, data: Path, folder: Path, *, is_compiled: bool, start: str | None = None
) -> Run:
    """Split and tabulate the data, make the network.

    Args:
        recipe: What to do.
        data: Folder of extended XYZ files.
        folder: Of all that is written.
        is_compiled: Whether steps are.
        start: A model to go on from, bundled or a folder. None: the recipe begins from nothing.

    Raises:
        ValueError: If the model is another network than the recipe's, or is missing.
    """
    examples = dataset.read_examples(data)
    train, test = dataset.split_examples(examples, recipe)
    h = recipe.hyperparameters
    metadata = None
    if start is None:
        references = dataset.fit_reference_energies(train, h.elements)
        core = _new_core(recipe, train)
    else:
        potential, metadata = _load_start(start, recipe)
        references, core = potential.reference_energies.numpy(), copy.deepcopy(potential.core)
        core.requires_grad_(True)
    scales = dataset.error_scales(train, h.elements, recipe.balance)
    groups: list[dataset.Group] = [(example,) for example in train]
    if recipe.sampling is not None:
        if start is None:
            raise ValueError("sampling: a recipe that has it needs a model to start from")
        groups += sampling.sampled_examples(potential, train, recipe, folder)
    tabulator = dataset.Tabulator(h.elements, h.cutoff, references, scales)
    train_samples, test_samples = packing.make_samples(
        [groups, [(example,) for example in test]], tabulator, recipe
    )
    trainer = Trainer(
        recipe,
        core,
        train_samples,
        test_samples,
        folder,
        data_sha256=dataset.data_sha256(examples),
        is_compiled=is_compiled,
    )
    return Run(trainer, references, test, metadata)


def _new_core(recipe: Recipe, train: Sequence[ase.Atoms]) -> HybridCore:
    torch.manual_seed(recipe.seed)
    core = HybridCore(recipe.hyperparameters)
    scale = float(np.square(np.concatenate([f.get_forces() for f in train])).mean()) ** 0.5
    core.force_scale.fill_(scale)
    core.energy_scale.fill_(scale)
    return core


def _load_start(start: str, recipe: Recipe) -> tuple[HybridNet, Mapping[str, Any]]:
    loaded = registry.load(start, device="cpu", dtype=torch.float32)
    potential = loaded.potential
    if not isinstance(potential, HybridNet) or (
        potential.core.hyperparameters != recipe.hyperparameters
    ):
        raise ValueError(f"start: {start!r} is another network than the recipe's hyperparameters")
    return potential, loaded.info.metadata


def main(arguments: Sequence[str] | None = None) -> None:
    """Train by a recipe, or go on training; then write the model, its errors and pictures."""
    parser = argparse.ArgumentParser(prog="twinforce-train", description=main.__doc__)
    parser.add_argument("recipe", type=Path, help="a TOML file")
    parser.add_argument("--data", type=Path, required=True, help="folder of extended XYZ files")
    parser.add_argument("--out", type=Path, required=True, help="folder of all that is written")
    parser.add_argument("--start", help="a model to go on from: bundled, or a folder")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--no-compile", action="store_true", help="run without torch.compile")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    recipe, about = read_recipe(options.recipe)
    run = prepare(
        recipe,
        options.data,
        options.out,
        is_compiled=not options.no_compile,
        start=options.start,
    )
    run.trainer.run()
    write_report(run, about, options.out)


def write_report(run: Run, about: About, folder: Path) -> None:
    """Write the model, its errors on the test part, and pictures; print the errors."""
    recipe, potential = run.trainer.recipe, run.potential()
    examples = run.test_examples
    predictions = report.predict_each(potential, examples)
    comparisons = report.compare(examples, predictions)
    errors = {"n_test_systems": float(len(examples))} | report.errors_of(comparisons)
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


if __name__ == "__main__":
    main()
