"""Models of other projects, loaded from a file or by a published name.

water.pt                              an exported metatomic model
water.ckpt                            a PET checkpoint of metatrain
upet:pet-mad-s@1.5.0                  a published universal PET, downloaded once
water.pt#variant=pbe&sha256=3f0a...   with a choice among several energies, and a known hash
"""

import hashlib
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from twinforce_models.potential import Potential
from twinforce_proto import ModelLoadError

FileLoader: TypeAlias = Callable[
    [Path, torch.device, torch.dtype | None, str | None], tuple[Potential, dict[str, Any]]
]
"""(path, device, dtype, variant) -> the potential, and facts from the file for `ModelInfo`."""

UPET_PREFIX = "upet:"
_UPET_REPOSITORY = "lab-cosmo/upet"
_OPTIONS = frozenset({"sha256", "variant"})


@dataclass(frozen=True, slots=True)
class _Family:
    """A family of potentials: the module that reads its files, and the extra that installs it."""

    architecture: str
    module: str
    extra: str


_FAMILIES = {
    ".pt": _Family("metatomic", "twinforce_models.potentials.metatomic", "metatomic"),
    ".ckpt": _Family("pet", "twinforce_models.potentials.pet.potential", "pet"),
}


@dataclass(frozen=True, slots=True)
class FileSpec:
    """A parsed model spec.

    Attributes:
        place: A path, or "upet:" and a published name.
        sha256: Expected SHA-256 of the file, in hexadecimal. None accepts any.
        variant: Name of one of several energies. None selects the only one.
    """

    place: str
    sha256: str | None = None
    variant: str | None = None

    @classmethod
    def parse(cls, spec: str) -> "FileSpec":
        """Split a spec into its parts.

        Raises:
            ModelLoadError: If the spec contains an unknown option.
        """
        place, _, fragment = spec.partition("#")
        options = dict(part.partition("=")[::2] for part in fragment.split("&") if part)
        if unknown := sorted(options.keys() - _OPTIONS):
            raise ModelLoadError(
                f"model {spec!r}: expected {' or '.join(sorted(_OPTIONS))} after #, "
                f"got {', '.join(unknown)}"
            )
        return cls(place, **options)


@dataclass(frozen=True, slots=True, eq=False)
class FoundModel:
    """A potential loaded from a file.

    Attributes:
        potential: The potential, ready to be evaluated.
        facts: Fields of `ModelInfo` that cannot be read off the potential.
    """

    potential: Potential
    facts: dict[str, Any]


def is_file_spec(spec: str | Path) -> bool:
    """Return True if a spec names a file that this module reads; the file need not exist."""
    place = str(spec).partition("#")[0]
    return place.startswith(UPET_PREFIX) or Path(place).suffix in _FAMILIES


def load_file(spec: str | Path, device: torch.device, dtype: torch.dtype | None) -> FoundModel:
    """Load the model that a spec names.

    Args:
        spec: See the module docstring.
        device: Device to compute on.
        dtype: Data type to compute in. None keeps that of the file.

    Raises:
        ModelLoadError: If the file does not exist or is not what the spec expects, or if the
            package that reads it is not installed.
    """
    parsed = FileSpec.parse(str(spec))
    is_published = parsed.place.startswith(UPET_PREFIX)
    path = upet_file(parsed.place) if is_published else Path(parsed.place).expanduser()
    if not path.is_file():
        raise ModelLoadError(f"{path}: there is no such file")
    sha256 = file_sha256(path)
    if parsed.sha256 not in (None, sha256):
        raise ModelLoadError(f"{path}: its SHA-256 is {sha256}, expected {parsed.sha256}")
    family = _FAMILIES[path.suffix]
    load: FileLoader = _import(family.module, family.extra).load
    potential, facts = load(path, device, dtype, parsed.variant)
    return FoundModel(
        potential,
        {
            **facts,
            "name": path.stem if is_published else facts["name"] or path.stem,
            "version": parsed.place.partition("@")[2] if is_published else sha256[:12],
            "sha256": sha256,
            "architecture": family.architecture,
            "metadata": {**facts["metadata"], "file": path.name, "variant": parsed.variant},
        },
    )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def upet_file(place: str) -> Path:
    """Return the path of the checkpoint of a published model, downloading it if necessary.

    Downloads go to the cache of huggingface_hub, which stores a file under its SHA-256 and checks
    its size; this function checks the hash. A cached file is used without network access.

    Args:
        place: "upet:" and name, size and version, such as "upet:pet-mad-s@1.5.0".

    Raises:
        ModelLoadError: If the file is not cached and cannot be downloaded; the message names the
            URL and the cache.
    """
    name, _, version = place.removeprefix(UPET_PREFIX).partition("@")
    if not name or not version:
        raise ModelLoadError(
            f"model {place!r}: expected {UPET_PREFIX}NAME-SIZE@VERSION, "
            f"such as {UPET_PREFIX}pet-mad-s@1.5.0; "
            "`python -c 'import upet; upet.list_upet()'` lists the models"
        )
    hub = _import("huggingface_hub", "pet")
    file = f"models/{name}-v{version}.ckpt"
    found = hub.try_to_load_from_cache(_UPET_REPOSITORY, file)
    if not isinstance(found, str):
        try:
            found = hub.hf_hub_download(_UPET_REPOSITORY, file)
        except Exception as error:  # of many classes, from the hub and from its HTTP client
            raise ModelLoadError(_cannot_download(place, file, hub, error)) from error
    path = Path(found)
    _check_blob(path)
    return path


def _check_blob(path: Path) -> None:
    """Raise if the cache records a SHA-256 for a file and the file has another."""
    known = path.resolve().name
    if len(known) == 64 and (sha256 := file_sha256(path)) != known:
        raise ModelLoadError(f"{path}: its SHA-256 is {sha256}, expected {known}; delete the file")


def _cannot_download(place: str, file: str, hub: Any, error: Exception) -> str:
    url = hub.hf_hub_url(_UPET_REPOSITORY, file)
    cache = os.path.normpath(hub.constants.HF_HUB_CACHE)
    return (
        f"model {place!r} is not in the cache {cache} and could not be downloaded "
        f"({type(error).__name__}). On a machine with network access, either download {url} and "
        f"serve the file, --model NAME={Path(file).name}, or run "
        f"`hf download {_UPET_REPOSITORY} {file}` and copy the folder "
        f"models--{_UPET_REPOSITORY.replace('/', '--')} into that cache"
    )


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelLoadError(
            f"this model needs additional packages: pip install 'twinforce[{extra}]' ({error})"
        ) from error
