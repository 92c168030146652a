"""Settings of pip on this machine, for a build: where packages come from, and whom to trust."""

import ast
import subprocess
import sys
from pathlib import Path


def volumes(folder: Path) -> list[str]:
    """Return flags of buildah that make pip in a build find what pip finds here.

    A build sees neither the files nor the variables that pip is configured by. They are joined to
    one file, mounted with the certificates, constraints and folders of packages that it names.

    Args:
        folder: Folder for that file.
    """
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    settings: dict[str, str] = {}
    for line in sorted(listed.splitlines(), reverse=True):  # variables, which begin with ":", last
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = str(ast.literal_eval(value))
    lines = [f"{name} = {' '.join(value.split())}" for name, value in settings.items()]
    file = folder / "pip.conf"
    file.touch(mode=0o600)  # an index may be named with a password
    file.write_text("\n".join(["[global]", *lines, ""]))
    places = {place for value in settings.values() for each in value.split() for place in _of(each)}
    mounts = [f"{place}:{place}:ro" for place in sorted(places)]
    return [f"--volume={each}" for each in (f"{file}:/etc/pip.conf:ro", *mounts)]


def _of(word: str) -> list[Path]:
    """Return the file or folder that a word of a setting names; of an index, that it is part of."""
    if word.startswith("file://"):
        return [Path(word.removeprefix("file://")).parent]
    return [Path(word)] if word.startswith("/") and Path(word).exists() else []
