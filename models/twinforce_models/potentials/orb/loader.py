"""Loading of ORB models from files, or by the names that orb-models publishes."""

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cached_path import cached_path, find_latest_cached, get_cache_dir
from orb_models.forcefield.pretrained import ORB_PRETRAINED_MODELS

from twinforce_models.loading.model_file import ModelFile
from twinforce_models.loading.source import Source, download
from twinforce_models.potentials.orb.potential import OrbPotential
from twinforce_proto import ModelLoadError

_INORGANIC = (*range(1, 84), *range(89, 95))
"""Elements of MPtrj, Alexandria and OMat24, which all models but those below are trained on."""

_OMOL = tuple(range(1, 84))
"""Elements of OMol25, which the models are trained on that have "omol" in their names."""

_KINDS = {
    "conservative": {"forces": "conservative_forces", "stress": "conservative_stress"},
    "direct": {"forces": "direct_forces", "stress": "direct_stress"},
}


def load(
    source: Source, *, arch: str | None = None, untrained: str | None = None
) -> tuple[OrbPotential, dict[str, Any]]:
    """Return an ORB model, and facts for `ModelInfo`.

    Args:
        source: A file of weights, or a published name, such as "orb-v3-direct-20-omat".
        arch: Published name whose architecture a file has. None reads it off the name of the file,
            if it is still the published one.
        untrained: "conservative" to offer conservative forces of a model that was trained for
            direct ones only. They are less accurate than the direct ones.

    Raises:
        ModelLoadError: If the model cannot be found, or is not one of this architecture.
    """
    file = source.read(find)
    arch = _architecture(source, file, arch)
    model = _load(file, arch, source.dtype)
    trained = "conservative" if hasattr(model, "grad_forces_name") else "direct"
    outputs = {"energy", *_outputs(model, trained)}
    if untrained is not None:
        outputs |= _untrained(model, arch, trained, untrained)
    elements = _OMOL if "omol" in arch else _INORGANIC
    potential = OrbPotential(model, elements, frozenset(outputs), source.device)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    metadata = {"arch": arch, "trained_for": trained, "max_neighbors": potential.max_neighbors}
    return potential, {
        "name": arch,
        "n_parameters": n_parameters,
        "metadata": metadata,
        "card": f"# {arch}\n\nAn ORB model of Orbital Materials, evaluated with orb-models.\n",
    }


def find(name: str) -> Path:
    """Return the path of the file of a published model, downloading it if necessary.

    Downloads go to the cache of the package cached_path, which orb-models uses itself.

    Args:
        name: A published name.

    Raises:
        ModelLoadError: If there is no such model, or it cannot be downloaded.
    """
    url = _urls().get(name)
    if url is None:
        raise ModelLoadError(
            f"model 'orb:{name}': there is no such file, and orb-models publishes no such model; "
            f"it publishes {', '.join(_urls())}"
        )
    if (cached := find_latest_cached(url)) is not None:
        return Path(cached)
    return download(f"orb:{name}", url, get_cache_dir(), partial(cached_path, url))


def _urls() -> dict[str, str]:
    """Return the addresses of the published models, which are the defaults of orb-models."""
    found = {
        name: inspect.signature(make).parameters["weights_path"].default
        for name, make in ORB_PRETRAINED_MODELS.items()
    }
    return {name: url for name, url in found.items() if url}


def _architecture(source: Source, file: ModelFile, arch: str | None) -> str:
    if file.is_published:
        return source.place
    known = _urls()
    if arch is None:
        named = [name for name, url in known.items() if url.endswith("/" + file.path.name)]
        if not named:
            raise ModelLoadError(
                f"{file.path}: the name of this file tells no architecture; add #arch= with one "
                f"of {', '.join(known)}"
            )
        arch = named[0]
    if arch not in known:
        raise ModelLoadError(f"arch: expected one of {', '.join(known)}, got {arch!r}")
    return arch


def _load(file: ModelFile, arch: str, dtype: torch.dtype | None) -> Any:
    """Return the network with the weights in a file, which are read twice but never executed."""
    if not isinstance(file.unpickle(), dict):
        raise ModelLoadError(f"{file.path}: expected the weights of an ORB model")
    make: Callable[..., Any] = ORB_PRETRAINED_MODELS[arch]
    precision = "float64" if dtype == torch.float64 else "float32-highest"
    with warnings.catch_warnings(), file.private_copy() as copy:
        warnings.simplefilter("ignore")  # about global settings, which are undone
        try:
            return make(weights_path=str(copy), device="cpu", precision=precision, compile=False)
        except RuntimeError as error:
            raise ModelLoadError(f"{file.path}: not weights of {arch}: {error}") from error


def _outputs(model: Any, kind: str) -> set[str]:
    """Return the outputs of one kind that a network can compute."""
    names = _KINDS[kind]
    if kind == "conservative":
        return {names["forces"], names["stress"]} if model.has_stress else {names["forces"]}
    return {output for head, output in names.items() if head in model.heads}


def _untrained(model: Any, arch: str, trained: str, kind: str) -> set[str]:
    possible = [each for each in _KINDS if each != trained and _outputs(model, each)]
    if kind not in possible:
        raise ModelLoadError(
            f"untrained: expected {' or '.join(possible) or 'no value'} for {arch}, which was "
            f"trained for {trained} forces, got {kind!r}"
        )
    return _outputs(model, kind)
