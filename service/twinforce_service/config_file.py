"""The file of settings, in TOML, that `--config` names."""

import tomllib
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any


def read_config(path: Path, names: Collection[str]) -> dict[str, Any]:
    """Return the settings in a file, by their names: `rest_port = 8000`.

    Args:
        path: File in TOML. Settings that are tables of names, such as `model`, are tables in it.
        names: Names that settings can have.

    Raises:
        ValueError: The file cannot be read, is not TOML, or has other names.
    """
    for name in (found := _parsed(path)):
        if name not in names:
            likely = "".join(f", such as {each!r}" for each in get_close_matches(name, names, 1))
            raise ValueError(f"expected names of settings in {path}{likely}, got {name!r}")
    return found


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = error.strerror
    except ValueError as error:
        problem = str(error)
    raise ValueError(f"expected a file in TOML, got {path}: {problem}")
