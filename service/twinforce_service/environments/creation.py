"""Make an environment of Python that holds what the engines of some families need."""

import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from twinforce_models.loading.catalog import families
from twinforce_proto import ModelLoadError
from twinforce_service.environments.environment import python_in
from twinforce_service.environments.source import checkout
from twinforce_service.version import service_version

TORCH_INDEX = "https://download.pytorch.org/whl/"
"""Address of the package indexes of torch, one for each kind of build."""

PINS = Path(__file__).with_name("pins")
"""Folder of the constraints of each family: versions that belong together."""

# Families that are installed with the extra of another one.
_SAME_AS = {"upet": "pet"}
_CHECK = "import twinforce_service.process.engine_process, twinforce_models.registry"
_TOOLS = "python -m venv needs the package of the system that provides it, often python3-venv"


@dataclass(frozen=True, slots=True)
class EnvironmentPlan:
    """An environment to make.

    Attributes:
        folder: Its folder, which must not exist.
        families: Families of potentials that it is to load.
        tool: Tool that makes it and installs the packages.
        python: Interpreter, or with uv also a version, that it is made with.
        torch_index: Address of an additional package index for torch; "" for none.
        requirements: Other packages to install.
        is_pinned: True to install the versions that are pinned for the families.
    """

    folder: Path
    families: Sequence[str]
    tool: Literal["venv", "uv"] = "venv"
    python: str = sys.executable
    torch_index: str = ""
    requirements: Sequence[str] = ()
    is_pinned: bool = True

    def commands(self) -> list[list[str]]:
        """Return the commands that make the environment, one after another."""
        python = str(python_in(self.folder))
        index = ["--extra-index-url", self.torch_index] if self.torch_index else []
        pinned = self._extras() if self.is_pinned else []
        pins = [part for each in pinned for part in ("--constraint", str(_pins(each)))]
        if self.tool == "uv":
            make = ["uv", "venv", "--python", self.python, str(self.folder)]
            install = ["uv", "pip", "install", "--python", python]
        else:
            make = [self.python, "-m", "venv", str(self.folder)]
            options = ["--disable-pip-version-check", "--retries", "1"]
            install = [python, "-m", "pip", *options, "install"]
        return [
            make,
            [*install, *pins, "--no-deps", *index, "torch"],
            [*install, *pins, *_twinforce(["engine", *self._extras()]), *self.requirements],
            *([*install, "--no-deps", each] for each in self._alone()),
            [python, "-I", "-c", _CHECK],
        ]

    def _alone(self) -> list[str]:
        """Return the packages whose own requirements cannot all be met."""
        known = families()
        return [each for name in self.families if (each := known[name].alone)]

    def _extras(self) -> list[str]:
        return [_SAME_AS.get(each, each) for each in self.families]


def known_families() -> list[str]:
    """Return the families that an environment can be made for."""
    return sorted({path.stem for path in PINS.glob("*.txt")} | _SAME_AS.keys())


def create(plan: EnvironmentPlan) -> Path:
    """Make an environment, which takes minutes, and return the path of its interpreter.

    Raises:
        ModelLoadError: It cannot be made. Nothing of it is left.
    """
    if plan.folder.exists():
        raise ModelLoadError(f"{plan.folder} exists already; remove it to make it anew")
    if unknown := sorted({*plan.families} - {*known_families()}):
        known = ", ".join(known_families())
        raise ModelLoadError(f"expected families out of {known}, got {', '.join(unknown)}")
    if plan.tool == "uv" and shutil.which("uv") is None:
        raise ModelLoadError("there is no uv; run 'pip install uv', or use --tool venv")
    plan.folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        for command in plan.commands():
            _run(command)
    except BaseException:
        shutil.rmtree(plan.folder, ignore_errors=True)
        raise
    return python_in(plan.folder)


def torch_index_of_this() -> str:
    """Return the package index that has the build of torch of this environment.

    A machine that runs the service on its CPU is spared gigabytes of CUDA, and a GPU is driven by
    the version of CUDA that works here. It is "" if torch is not installed here.
    """
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return ""
    build = runpy.run_path(str(Path(found.origin).with_name("version.py")))  # imports no torch
    if cuda := build.get("cuda"):
        return f"{TORCH_INDEX}cu{''.join(cuda.split('.')[:2])}"
    hip = build.get("hip")
    return f"{TORCH_INDEX}rocm{'.'.join(hip.split('.')[:2])}" if hip else f"{TORCH_INDEX}cpu"


def _pins(extra: str) -> Path:
    return PINS / f"{extra}.txt"


def _twinforce(extras: Sequence[str]) -> list[str]:
    """Return the arguments that install twinforce from where this one comes from."""
    wanted = f"[{','.join(dict.fromkeys(extras))}]"
    if (source := checkout()) is not None:
        return ["--editable", f"{source}{wanted}"]
    text = metadata.distribution("twinforce").read_text("direct_url.json")
    if text is not None:  # from a file or a repository
        return [f"twinforce{wanted} @ {json.loads(text)['url']}"]
    return [f"twinforce{wanted}=={service_version()}"]


def _run(command: Sequence[str]) -> None:
    """Run a command whose output the user sees; raise if it fails."""
    sys.stderr.write(f"$ {' '.join(command)}\n")
    own = {"PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"}
    variables = {name: value for name, value in os.environ.items() if name not in own}
    try:
        subprocess.run(command, check=True, env=variables, stdout=sys.stderr)
    except OSError as error:
        raise ModelLoadError(f"{command[0]} cannot be run: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        hint = f" ({_TOOLS})" if command[1:3] == ["-m", "venv"] else ""
        raise ModelLoadError(
            f"the environment was not made, as this command exited with code {error.returncode}"
            f"{hint}: {' '.join(command)}"
        ) from error
