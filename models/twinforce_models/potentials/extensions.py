"""Compiled extensions of exported models: operations that a TorchScript program calls by name.

Metatomic notes in a file which libraries were loaded when it was exported, by their paths inside
the folder of installed packages. Only installed libraries are loaded, in the build for the torch
that runs here.
"""

import io
import json
import re
import sys
import zipfile
from pathlib import Path, PurePosixPath

import torch

_BUILD = re.compile(r"torch-\d+\.\d+")
"""Folder of a library that packages compile for each version of torch."""


def load_extensions(content: bytes) -> list[str]:
    """Load the libraries that an exported model may need, as far as they are installed.

    Libraries that these depend on are loaded if they can be: some are for GPUs only.

    Args:
        content: The bytes of the file.

    Returns:
        Names of those that are not installed or cannot be loaded. The model may not need them.
    """
    for path in _listed(content, "extensions-deps").values():
        _is_loaded(path)
    return [name for name, path in _listed(content, "extensions").items() if not _is_loaded(path)]


def _listed(content: bytes, kind: str) -> dict[str, str]:
    """Return the paths of libraries by their names; none if the bytes are no such file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = [each for each in archive.namelist() if each.endswith(f"/extra/{kind}")]
            listed = json.loads(archive.read(found[0])) if found else []
        return {str(each["name"]): str(each["path"]) for each in listed}
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError):
        return {}  # metatomic says what is wrong with the file


def _is_loaded(path: str) -> bool:
    """Load a library unless it is loaded, and return True if that worked."""
    if (library := _installed(path)) is None:
        return False
    try:
        torch.ops.load_library(str(library))
    except OSError:
        return False
    return True


def _installed(path: str) -> Path | None:
    """Return the installed library that a file calls by this path."""
    version = ".".join(torch.__version__.split(".")[:2])
    relative = PurePosixPath(_BUILD.sub(f"torch-{version}", path))
    if relative.is_absolute() or ".." in relative.parts:
        return None
    candidates = (Path(folder) / relative for folder in (*sys.path, sys.prefix) if folder)
    return next((each.resolve() for each in candidates if each.is_file()), None)
