"""Models of other projects, from a file or by a published name, for the registry.

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
"""(path, device, dtype, variant) -> potential, and what the file says of itself."""

UPET_PREFIX = "upet:"
_UPET_REPOSITORY = "lab-cosmo/upet"
_OPTIONS = frozenset({"sha256", "variant"})


@dataclass(frozen=True, slots=True)
class _Family:
    """A family of potentials: what reads its files, and the extra that installs that."""

    architecture: str
    module: str
    extra: str


_FAMILIES = {
    ".pt": _Family("metatomic", "twinforce_models.potentials.metatomic", "metatomic"),
    ".ckpt": _Family("pet", "twinforce_models.potentials.pet.potential", "pet"),
}


@dataclass(frozen=True, slots=True)
class FileSpec:
    """What a spec asks for.

    Attributes:
        place: A path, or "upet:" and a published name.
        sha256: What the file's must be, in hexadecimal. None: anything.
        variant: Which of several energies. None: the only one.
    """

    place: str
    sha256: str | None = None
    variant: str | None = None

    @classmethod
    def parse(cls, spec: str) -> "FileSpec":
        """Take a spec apart.

        Raises:
            ModelLoadError: For an option that there is not.
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
    """A potential from a file.

    Attributes:
        potential: Ready to be evaluated.
        facts: What `ModelInfo` wants to know that the potential does not tell.
    """

    potential: Potential
    facts: dict[str, Any]


def is_file_spec(spec: str | Path) -> bool:
    """Return whether a spec means a file that this module reads, there or not."""
    place = str(spec).partition("#")[0]
    return place.startswith(UPET_PREFIX) or Path(place).suffix in _FAMILIES


def load_file(spec: str | Path, device: torch.device, dtype: torch.dtype | None) -> FoundModel:
    """Load the model that a spec means.

    Args:
        spec: See the head of this module.
        device: Where it shall compute.
        dtype: What in. None: as the file has it.

    Raises:
        ModelLoadError: There is no such file, it is not what it should be, or what reads it is not
            installed.
    """
    wanted = FileSpec.parse(str(spec))
    is_published = wanted.place.startswith(UPET_PREFIX)
    path = upet_file(wanted.place) if is_published else Path(wanted.place).expanduser()
    if not path.is_file():
        raise ModelLoadError(f"{path}: there is no such file")
    sha256 = file_sha256(path)
    if wanted.sha256 not in (None, sha256):
        raise ModelLoadError(f"{path}: its SHA-256 is {sha256}, expected {wanted.sha256}")
    family = _FAMILIES[path.suffix]
    load: FileLoader = _imported(family).load
    potential, said = load(path, device, dtype, wanted.variant)
    return FoundModel(
        potential,
        {
            **said,
            "name": path.stem if is_published else said["name"] or path.stem,
            "version": wanted.place.partition("@")[2] if is_published else sha256[:12],
            "sha256": sha256,
            "architecture": family.architecture,
            "metadata": {**said["metadata"], "file": path.name, "variant": wanted.variant},
        },
    )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def upet_file(place: str) -> Path:
    """Return where the checkpoint of a published model lies, after downloading it if need be.

    A download goes to the cache of huggingface_hub, which stores a file under its SHA-256 and
    checks the size; the hash is checked here. A file in the cache is taken without the network.

    Args:
        place: "upet:" and name, size and version, such as "upet:pet-mad-s@1.5.0".

    Raises:
        ModelLoadError: It is not there and cannot be downloaded; says from where to where.
    """
    name, _, version = place.removeprefix(UPET_PREFIX).partition("@")
    if not name or not version:
        raise ModelLoadError(
            f"model {place!r}: expected {UPET_PREFIX}NAME-SIZE@VERSION, "
            f"such as {UPET_PREFIX}pet-mad-s@1.5.0; "
            "`python -c 'import upet; upet.list_upet()'` lists what there is"
        )
    hub = _required("huggingface_hub", "pet")
    file = f"models/{name}-v{version}.ckpt"
    found = hub.try_to_load_from_cache(_UPET_REPOSITORY, file)
    if not isinstance(found, str):
        try:
            found = hub.hf_hub_download(_UPET_REPOSITORY, file)
        except Exception as error:  # a dozen kinds, of this package and of what it asks with
            raise ModelLoadError(_cannot_download(place, file, hub, error)) from error
    path = Path(found)
    _check_blob(path)
    return path


def _check_blob(path: Path) -> None:
    """Raise if the cache knows the SHA-256 of a file and it is another."""
    known = path.resolve().name
    if len(known) == 64 and (sha256 := file_sha256(path)) != known:
        raise ModelLoadError(f"{path}: its SHA-256 is {sha256}, expected {known}; delete it")


def _cannot_download(place: str, file: str, hub: Any, error: Exception) -> str:
    url = hub.hf_hub_url(_UPET_REPOSITORY, file)
    cache = os.path.normpath(hub.constants.HF_HUB_CACHE)
    return (
        f"model {place!r} is not in the cache {cache} and could not be downloaded "
        f"({type(error).__name__}). Where there is a network, download {url}, then either serve "
        f"the file, --model NAME={Path(file).name}, or run `hf download {_UPET_REPOSITORY} {file}` "
        f"and copy the folder models--{_UPET_REPOSITORY.replace('/', '--')} into that cache"
    )


def _imported(family: _Family) -> Any:
    return _required(family.module, family.extra)


def _required(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelLoadError(
            f"this kind of model needs more packages: pip install 'twinforce[{extra}]' ({error})"
        ) from error
