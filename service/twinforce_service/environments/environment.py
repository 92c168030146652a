"""Environments of Python that engines run in, and how they are found."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from twinforce_proto import ModelInfo, ModelLoadError, ServiceError

MAIN = "main"
"""Name of the environment that the service itself runs in."""


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment of Python.

    Attributes:
        name: Name that specs of models use.
        python: Path of its interpreter; None for that of this process.
    """

    name: str = MAIN
    python: str | None = None

    @property
    def is_main(self) -> bool:
        """True for the environment of this process."""
        return self.python is None

    def label(self, device: str) -> str:
        """Return the name of an engine in this environment, for messages."""
        return device if self.is_main else f"{device} (environment {self.name})"

    def mark(self, info: ModelInfo) -> ModelInfo:
        """Return the declaration of a model that is loaded here, with the environment in it."""
        if self.is_main:
            return info
        return replace(info, metadata={**info.metadata, "environment": self.name})

    def start_failure(self, failure: ServiceError, device: str) -> ModelLoadError:
        """Return the error of a service whose engine has not started here.

        Args:
            failure: Reason of the engine.
            device: Its device.
        """
        if not self.is_main:
            return ModelLoadError(f"environment {self.name!r}, {self.python}: {failure}")
        if isinstance(failure, ModelLoadError):
            return failure
        return ModelLoadError(f"the engine on {device} did not start: {failure}")


THIS_ENVIRONMENT = Environment()


def find_environments(
    names: Iterable[str], given: Mapping[str, str], folder: Path
) -> dict[str, Environment]:
    """Return environments by name.

    Args:
        names: Names of the environments to find.
        given: Path of the interpreter, or of the folder, of environments by name.
        folder: Folder that holds the folders of all other environments.

    Raises:
        ModelLoadError: There is no such environment, or it has no interpreter.
    """
    return {name: _find(name, given, folder) for name in names}


def _find(name: str, given: Mapping[str, str], folder: Path) -> Environment:
    if name == MAIN:
        return THIS_ENVIRONMENT
    if name in given:
        return Environment(name, _interpreter(name, Path(given[name]).expanduser()))
    if (path := folder / name).is_dir():
        return Environment(name, _interpreter(name, path))
    known = ", ".join(sorted({*given, *known_environments(folder)})) or "none"
    raise ModelLoadError(
        f"no environment is called {name!r}; known: {known}. Make one with "
        f"'twinforce-server env create {name}', or name an interpreter with "
        f"--environment {name}=PATH/TO/bin/python"
    )


def _interpreter(name: str, path: Path) -> str:
    """Return the interpreter at a path, which may be the folder of an environment."""
    python = python_in(path) if path.is_dir() else path
    # Links are kept: an interpreter finds its packages by the path that it was started with.
    if not (python.is_file() and os.access(python, os.X_OK)):
        raise ModelLoadError(
            f"environment {name!r}: there is no interpreter at {python}; expected the path of one, "
            f"--environment {name}=PATH/TO/bin/python"
        )
    return str(python.absolute())


def known_environments(folder: Path) -> dict[str, Path]:
    """Return the interpreters of the environments in a folder, by name."""
    if not folder.is_dir():
        return {}
    found = {path.name: python_in(path) for path in sorted(folder.iterdir())}
    return {name: python for name, python in found.items() if python.is_file()}


def python_in(folder: Path) -> Path:
    """Return the path of the interpreter of an environment in this folder."""
    return folder / "bin" / "python"
