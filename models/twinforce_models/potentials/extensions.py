"""Compiled extensions of exported models: operations that a TorchScript program calls by name.

Metatomic notes in a file which libraries were loaded when it was exported, by their paths inside
the folder of installed packages. The packages that these belong to are imported: a library by
itself may lack the derivatives of its operations, and forces would be wrong.
"""

import importlib
import io
import json
import sys
import zipfile
from pathlib import Path, PurePosixPath


def import_extensions(content: bytes) -> list[str]:
    """Import the installed packages that an exported model may need.

    Args:
        content: The bytes of the file.

    Returns:
        Names of the extensions whose packages are not installed, or cannot be imported. The model
        may not need them.
    """
    return [name for name, path in _listed(content).items() if not _is_imported(path)]


def _listed(content: bytes) -> dict[str, str]:
    """Return the paths of libraries by their names; none if the bytes are no such file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = [each for each in archive.namelist() if each.endswith("/extra/extensions")]
            listed = json.loads(archive.read(found[0])) if found else []
        return {str(each["name"]): str(each["path"]) for each in listed}
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError):
        return {}  # metatomic says what is wrong with the file


def _is_imported(path: str) -> bool:
    """Import the package of a library, and return True if that worked."""
    if not (package := _package_of(path)):
        return False
    try:
        importlib.import_module(package)
    except Exception:  # of the package, or of the loader of a library
        return False
    return True


def _package_of(path: str) -> str:
    """Return the name of the innermost installed package whose folder a library is in, or ""."""
    for folder in filter(None, sys.path):
        names: list[str] = []
        for name in PurePosixPath(path).parts[:-1]:
            if not (name.isidentifier() and Path(folder, *names, name, "__init__.py").is_file()):
                break
            names.append(name)
        if names:
            return ".".join(names)
    return ""
