"""Published universal PETs, such as upet:pet-mad-s@1.5.0, downloaded once."""

import os
from pathlib import Path
from typing import Any

import huggingface_hub

from twinforce_models.loading.model_file import file_sha256
from twinforce_models.loading.source import Source
from twinforce_models.potentials.pet import potential
from twinforce_models.potentials.pet.potential import PetPotential
from twinforce_proto import ModelLoadError

_REPOSITORY = "lab-cosmo/upet"


def load(source: Source, *, variant: str | None = None) -> tuple[PetPotential, dict[str, Any]]:
    """Return a published PET, and the metadata of its checkpoint.

    Args:
        source: Its place is a name, size and version, such as "pet-mad-s@1.5.0".
        variant: See `PetPotential`.

    Raises:
        ModelLoadError: If the checkpoint is not cached and cannot be downloaded; the message names
            the URL and the cache.
    """
    file = source.read(find)
    pet, facts = potential.load_checkpoint(source, file, variant)
    name = {"name": file.path.stem, "version": source.place.partition("@")[2]}
    return pet, facts | {"architecture": "pet"} | name


def find(place: str) -> Path:
    """Return the path of the checkpoint of a published model, downloading it if necessary.

    Downloads go to the cache of huggingface_hub, which stores a file under its SHA-256 and checks
    its size; this function checks the hash. A cached file is used without network access.

    Args:
        place: Name, size and version, such as "pet-mad-s@1.5.0".

    Raises:
        ModelLoadError: If the file is not cached and cannot be downloaded.
    """
    name, _, version = place.partition("@")
    if not name or not version:
        raise ModelLoadError(
            f"model 'upet:{place}': expected upet:NAME-SIZE@VERSION, such as "
            "upet:pet-mad-s@1.5.0; `python -c 'import upet; upet.list_upet()'` lists the models"
        )
    file = f"models/{name}-v{version}.ckpt"
    found = huggingface_hub.try_to_load_from_cache(_REPOSITORY, file)
    if not isinstance(found, str):
        try:
            found = huggingface_hub.hf_hub_download(_REPOSITORY, file)
        except Exception as error:  # of many classes, from the hub and from its HTTP client
            raise ModelLoadError(_cannot_download(place, file, error)) from error
    path = Path(found)
    _check_blob(path)
    return path


def _check_blob(path: Path) -> None:
    """Raise if the cache records a SHA-256 for a file and the file has another."""
    known = path.resolve().name
    if len(known) == 64 and (sha256 := file_sha256(path)) != known:
        raise ModelLoadError(f"{path}: its SHA-256 is {sha256}, expected {known}; delete the file")


def _cannot_download(place: str, file: str, error: Exception) -> str:
    url = huggingface_hub.hf_hub_url(_REPOSITORY, file)
    cache = os.path.normpath(huggingface_hub.constants.HF_HUB_CACHE)
    return (
        f"model 'upet:{place}' is not in the cache {cache} and could not be downloaded "
        f"({type(error).__name__}). On a machine with network access, either download {url} and "
        f"serve the file, --model NAME={Path(file).name}, or run "
        f"`hf download {_REPOSITORY} {file}` and copy the folder "
        f"models--{_REPOSITORY.replace('/', '--')} into that cache"
    )
