"""Files and optional packages, with errors that say what to do."""

import importlib
from pathlib import Path
from typing import Any


def need(module: str) -> Any:
    """Import what a command needs and the client does not.

    Raises:
        ModuleNotFoundError: Says which extra to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this command needs {module.partition('.')[0]}: pip install 'twinforce[cli]' ({error})"
        ) from error


def read_atoms(path: Path, index: str) -> list[Any]:
    """Read the atoms in a file of any format that ASE knows.

    Args:
        path: Of the file.
        index: Which of them, as ASE writes it: "-1", ":", "0:100:10".

    Raises:
        ValueError: When there are none, or they cannot be read.
    """
    read = need("ase.io").read
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        found = read(path, index=index)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read: {error or type(error).__name__}") from error
    atoms = found if isinstance(found, list) else [found]
    if not atoms:
        raise ValueError(f"{path}: holds no atoms at {index!r}")
    return atoms
