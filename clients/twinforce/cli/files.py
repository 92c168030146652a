"""Reading of atoms from files, and imports of optional packages."""

import importlib
from pathlib import Path
from typing import Any


def require(module: str) -> Any:
    """Import a module of a package that the client itself does not need.

    Raises:
        ModuleNotFoundError: The package is missing; the message names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this command needs {module.partition('.')[0]}: pip install 'twinforce[cli]' ({error})"
        ) from error


def read_atoms(path: Path, index: str) -> list[Any]:
    """Read atoms from a file of any format that ASE knows.

    Args:
        path: Path of the file.
        index: Systems to read, in the notation of ASE: "-1", ":", "0:100:10".

    Raises:
        ValueError: The file cannot be read or holds no such systems.
    """
    read = require("ase.io").read
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        found = read(path, index=index)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read: {str(error) or type(error).__name__}") from error
    atoms = found if isinstance(found, list) else [found]
    if not atoms:
        raise ValueError(f"{path}: holds no atoms at {index!r}")
    return atoms
