"""Loading of models of fairchem from files, or by the names that fairchem publishes."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fairchem.core._config import CACHE_DIR
from fairchem.core.calculate import pretrained_mlip
from omegaconf import OmegaConf

from twinforce_models.loading.source import Source, download
from twinforce_models.potentials.fairchem.checkpoint import FairchemCheckpoint, Target, read
from twinforce_models.potentials.fairchem.heads import Head, head_of
from twinforce_models.potentials.fairchem.potential import FairchemPotential, LoneAtoms
from twinforce_proto import ModelLoadError

_AUTOGRAD = frozenset({"energy", "atom_energies", "conservative_forces", "conservative_stress"})
_DERIVED = frozenset({"conservative_forces", "conservative_stress"})
_GATED = (
    "These weights are gated: their page on Hugging Face asks you to accept a license once, after "
    "which `hf auth login` lets this machine download them"
)


def load(
    source: Source,
    *,
    variant: str | None = None,
    untrained: str | None = None,
    atoms: str | None = None,
) -> tuple[FairchemPotential, dict[str, Any]]:
    """Return a model of fairchem, and facts for `ModelInfo`.

    Args:
        source: An inference checkpoint, or a published name, such as "uma-s-1p2p1".
        variant: Task of the model, such as "omat" or "omol". None if it has only one.
        untrained: "conservative" to offer conservative forces of a model that was trained for
            direct ones. They are less accurate than the direct ones.
        atoms: File with the energies of atoms alone, "iso_atom_elem_refs.yaml" of the model's
            repository. None uses the one that belongs to a published name.

    Raises:
        ModelLoadError: If the model cannot be found, or is not one of these networks.
    """
    file = source.read(find)
    checkpoint = read(file, source.dtype or torch.float32)
    task, targets = _task(checkpoint, variant)
    name = source.place if file.is_published else file.path.stem
    heads = _heads(checkpoint, task, targets)
    trained = "direct" if "forces" in heads else "conservative"
    outputs = _outputs(heads, trained, untrained)
    lone_atoms = _lone_atoms(_references_of(name) if atoms is None and file.is_published else atoms)
    network = checkpoint.network.to(source.device)
    potential = FairchemPotential(
        network, task, targets, heads, outputs, lone_atoms.get(task, {}), source.device
    )
    return potential, {
        "name": f"{name}-{task}",
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "metadata": {
            "task": task,
            "tasks": sorted(_tasks(checkpoint)),
            "trained_for": trained,
            "targets": sorted(target.quantity for target in targets.values()),
            "max_neighbors": potential.max_neighbors,
        },
        "card": f"# {name}\n\nA model of FAIR Chemistry, evaluated with fairchem-core.\n",
    }


def find(name: str) -> Path:
    """Return the path of the checkpoint of a published model, downloading it if necessary.

    Downloads go to the cache of fairchem, a folder in the layout of huggingface_hub.

    Args:
        name: A published name.

    Raises:
        ModelLoadError: If there is no such model, or it cannot be downloaded.
    """
    published = pretrained_mlip.available_models
    if name not in published:
        raise ModelLoadError(
            f"model 'fairchem:{name}': there is no such file, and fairchem publishes no such "
            f"model; it publishes {', '.join(published)}"
        )
    about = pretrained_mlip._MODEL_CKPTS.checkpoints[name]
    url = f"https://huggingface.co/{about.repo_id}/resolve/main/{about.subfolder}/{about.filename}"
    fetch = partial(pretrained_mlip.pretrained_checkpoint_path_from_name, name)
    try:
        return download(f"fairchem:{name}", url, CACHE_DIR, fetch)
    except ModelLoadError as error:
        raise ModelLoadError(f"{error}. {_GATED}") from error.__cause__


def _tasks(checkpoint: FairchemCheckpoint) -> set[str]:
    """Return the tasks that have an energy."""
    energies = (target for target in checkpoint.targets if target.quantity == "energy")
    return {name for target in energies for name in target.datasets}


def _task(checkpoint: FairchemCheckpoint, variant: str | None) -> tuple[str, dict[str, Target]]:
    """Return the task to serve, and its targets by their quantity."""
    known = sorted(_tasks(checkpoint))
    if variant is None and len(known) == 1:
        variant = known[0]
    if variant not in known:
        raise ModelLoadError(
            f"variant: expected one of {', '.join(known)}, got {variant or 'none'}; add #variant="
        )
    targets = [target for target in checkpoint.targets if variant in target.datasets]
    return variant, {target.quantity: target for target in targets}


def _heads(
    checkpoint: FairchemCheckpoint, task: str, targets: Mapping[str, Target]
) -> dict[str, Head]:
    """Return the heads of a task by their quantity; those of direct outputs only if trained."""
    network, trained = checkpoint.network, checkpoint.network.backbone.regress_config
    is_direct = {"forces": trained.direct_forces, "stress": trained.direct_stress}
    dtype = next(network.parameters()).dtype
    found = {
        quantity: head
        for quantity, target in targets.items()
        if is_direct.get(quantity, quantity == "energy")
        and (head := head_of(network, target, task, dtype)) is not None
    }
    if "energy" not in found:
        raise ModelLoadError(f"task {task}: no head of the network predicts its energy")
    if trained.direct_forces and "forces" not in found:
        raise ModelLoadError(f"task {task}: no head of the network predicts its direct forces")
    if not trained.direct_forces and "forces" in targets:
        _check_scales(targets)
    return found


def _check_scales(targets: Mapping[str, Target]) -> None:
    """Raise if the forces that were trained are not the gradient of the energy that was."""
    energy, forces = (float(targets[each].normalizer.rmsd) for each in ("energy", "forces"))
    if energy != forces or float(targets["forces"].normalizer.mean) != 0.0:
        raise ModelLoadError(
            f"conservative forces: expected the scale of the energy, {energy:g}, and no mean, got "
            f"{forces:g} and {float(targets['forces'].normalizer.mean):g}"
        )


def _outputs(heads: Mapping[str, Head], trained: str, untrained: str | None) -> frozenset[str]:
    outputs = _AUTOGRAD | {f"direct_{quantity}" for quantity in heads.keys() - {"energy"}}
    if untrained not in (None, "conservative") or (untrained and trained == "conservative"):
        possible = "conservative" if trained == "direct" else "no value"
        raise ModelLoadError(
            f"untrained: expected {possible} for a model that was trained for {trained} forces, "
            f"got {untrained!r}"
        )
    return outputs if untrained or trained == "conservative" else outputs - _DERIVED


def _references_of(name: str) -> str | None:
    """Return the path of the energies of atoms alone that belong to a published model."""
    about = pretrained_mlip._MODEL_CKPTS.checkpoints[name]
    if about.atom_refs is None:
        return None
    folder, file = about.atom_refs["subfolder"], about.atom_refs["filename"]
    url = f"https://huggingface.co/{about.repo_id}/resolve/main/{folder}/{file}"
    fetch = partial(
        pretrained_mlip.hf_hub_download,
        filename=file,
        repo_id=about.repo_id,
        subfolder=folder,
        revision=about.revision,
        cache_dir=CACHE_DIR,
    )
    return str(download(f"fairchem:{name}", url, CACHE_DIR, fetch))


def _lone_atoms(path: str | None) -> dict[str, LoneAtoms]:
    """Return the energies of atoms alone of each task, from a file of YAML."""
    if path is None:
        return {}
    try:
        saved = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        return {
            task.removesuffix("_elem_refs"): {
                int(number): _by_charge(energies) for number, energies in _items(table)
            }
            for task, table in saved.items()
        }
    except Exception as error:  # of many classes, from YAML of another kind
        raise ModelLoadError(
            f"atoms: expected a file like iso_atom_elem_refs.yaml, got {path} ({error})"
        ) from error


def _items(table: Any) -> list[tuple[int, Any]]:
    """Return the entries of a table, which may be a list with one entry per atomic number."""
    return list(table.items() if isinstance(table, dict) else enumerate(table))


def _by_charge(energies: Any) -> dict[int, float]:
    """Return energies by charge; a single one is that of any charge, of which 0 is expected."""
    if isinstance(energies, dict):
        return {int(charge): float(energy) for charge, energy in energies.items()}
    return {0: float(energies)}
