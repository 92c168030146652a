"""Export of a trained network as a model folder with weights, metadata and a model card."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from twinforce_models.potentials.hybrid_net.core import HybridCore
from twinforce_models.potentials.hybrid_net.potential import HybridNet, save
from twinforce_models.training.config import About, OptimizerName, Recipe
from twinforce_models.training.trainer import Trainer
from twinforce_proto.units import UNITS

_OPTIMIZERS: dict[OptimizerName, str] = {"adamw": "AdamW", "muon": "Muon"}
# Metadata that are kept of the model that training started from.
_ORIGIN = ("name", "version", "sha256", "data_sha256", "recipe", "recipe_sha256", "started_from")


def export(
    trainer: Trainer,
    about: About,
    potential: HybridNet,
    measured: dict[str, Any],
    folder: Path,
    *,
    start: Mapping[str, Any] | None = None,
) -> None:
    """Write model.safetensors, model.json and CARD.md.

    Args:
        trainer: Trainer that produced the weights.
        about: Text for the metadata and the card.
        potential: Potential in float32.
        measured: Results on the test systems: `errors`, name with unit -> value;
            `errors_by_elements`; and `force_disagreement`.
        folder: Folder to write to; created if it is missing.
        start: Metadata of the model that training started from, or None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save(potential, folder)
    metadata = describe(trainer.recipe, about, potential.core, measured)
    if start is not None:
        metadata["started_from"] = {key: start[key] for key in _ORIGIN if key in start}
    metadata["data_sha256"] = trainer.data_sha256
    metadata["sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps(metadata, indent=2) + "\n")
    (folder / "CARD.md").write_text(card(metadata))


def describe(
    recipe: Recipe, about: About, core: HybridCore, measured: dict[str, Any]
) -> dict[str, Any]:
    """Return the content of model.json without the hashes of the data and the weights."""
    h = recipe.hyperparameters
    return {
        "name": recipe.name,
        "version": about.version,
        "architecture": "hybrid_net",
        "hyperparameters": asdict(h),
        "cutoff": h.cutoff,
        "elements": list(h.elements),
        "dtype": "float32",
        "outputs": sorted(HybridNet.outputs),
        "units": UNITS,
        **measured,
        "description": about.description,
        "level_of_theory": about.level_of_theory,
        "training_data": [asdict(source) for source in about.training_data],
        **({} if about.teacher is None else {"teacher": asdict(about.teacher)}),
        "recipe": asdict(recipe),
        "recipe_sha256": recipe.sha256(),
        "licence": about.licence,
        "limits": about.limits,
        "n_parameters": sum(p.numel() for p in core.parameters()),
        "made_with": {"torch": torch.__version__},
    }


def card(metadata: dict[str, Any]) -> str:
    """Return the model card, in Markdown."""
    sources = "\n".join(
        f"- {s['citation']}, doi:{s['doi']} ({s['n_systems']} systems, {s['licence']}). {s['note']}"
        for s in metadata["training_data"]
    )
    errors = "\n".join(f"| {name} | {value:.3g} |" for name, value in metadata["errors"].items())
    disagreement = "\n".join(
        f"| {symbol} | {1e3 * each['mean']:.3g} | {1e3 * each['max']:.3g} |"
        for symbol, each in metadata["force_disagreement"].items()
    )
    origin = metadata.get("started_from", {})
    before, after = stages_of(origin), metadata["recipe"]["stages"]
    stages = "\n".join(
        f"{n}. `{s['name']}`: {s['epochs']} epochs, learning rate up to {s['learning_rate']:g}"
        for n, s in enumerate([*before, *after], 1)
    )
    start = (
        f"Training by this recipe began with stage {len(before) + 1}, from the weights of "
        f"{origin['name']} {origin['version']} (sha256 {origin['sha256'][:16]}, recipe "
        f"{origin['recipe_sha256'][:16]}). "
        if origin
        else ""
    )
    optimizer = _OPTIMIZERS[metadata["recipe"]["optimizer"]]
    return f"""# {metadata["name"]} {metadata["version"]}

{metadata["description"]}

- level of theory: {metadata["level_of_theory"]}
- elements (atomic numbers): {", ".join(map(str, metadata["elements"]))}
- cutoff: {metadata["cutoff"]} Å
- parameters: {metadata["n_parameters"]}, in {metadata["dtype"]}
- license of the weights: {metadata["licence"]}
- energies have the zero of the training data

## Errors on test systems

These systems were kept out of training.

| quantity | value |
|---|---|
{errors}
{by_elements(metadata["errors_by_elements"])}
Difference between direct and conservative forces, root mean square over the atoms of a system, in
meV/Å:

| element | mean | largest |
|---|---|---|
{disagreement}

## Training

{stages}

{start}The optimizer is {optimizer}. The recipe has the hash
{metadata["recipe_sha256"][:16]}; `model.json` contains all of it.

## Training data

{taught(metadata.get("teacher"))}{sources}

## Limitations

{metadata["limits"]}

Direct forces are not the gradient of an energy: on their own, they heat NVE runs and prevent
geometry optimizations from converging. Use conservative forces there.
"""


def stages_of(metadata: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return all stages of training, those of the models that it started from first."""
    own = metadata.get("recipe", {}).get("stages", [])
    return [*(stages_of(origin) if (origin := metadata.get("started_from")) else []), *own]


def taught(teacher: Mapping[str, Any] | None) -> str:
    """Return what the card says of the model that labeled the data, in Markdown."""
    if teacher is None:
        return ""
    lines = [f"- labeled by {teacher['teacher']}"]
    if teacher["teacher_sha256"]:
        lines[0] += f" (sha256 {teacher['teacher_sha256'][:16]})"
    if teacher["temperatures_k"]:
        lines.append(f"- temperatures: {', '.join(f'{t:g}' for t in teacher['temperatures_k'])} K")
    if teacher["licence"]:
        lines.append(f"- license of its weights: {teacher['licence']}")
    return "\n".join(lines) + "\n"


def by_elements(errors: dict[str, dict[str, float]]) -> str:
    """Return a table of mean absolute errors, one row for each set of elements, in Markdown."""
    if len(errors) < 2:
        return ""
    names = [name for name in next(iter(errors.values())) if "_mae_" in name]
    head = " | ".join(name.replace("_mae_", ", ") for name in names)
    rows = [
        f"| {symbols} | {' | '.join(f'{each[name]:.3g}' for name in names)} |"
        for symbols, each in errors.items()
    ]
    return "\n".join(
        ["", f"| mean absolute error | {head} |", "|---" * (len(names) + 1) + "|", *rows, ""]
    )
