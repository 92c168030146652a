"""The command `twinforce-server env`: make environments for engines, and list them."""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from twinforce_proto import ModelLoadError
from twinforce_proto.headers import is_model_name
from twinforce_service.environments.creation import (
    EnvironmentPlan,
    create,
    known_families,
    torch_index_of_this,
)
from twinforce_service.environments.environment import MAIN, known_environments

_PROGRAM = "twinforce-server env"
_VERSIONS = """\
import platform
from importlib import metadata
try:
    found = metadata.version("twinforce")
except metadata.PackageNotFoundError:
    found = "none"
print(platform.python_version(), found)
"""


def run(arguments: Sequence[str], folder: str) -> int:
    """Run the command with these arguments; return its exit code.

    Args:
        arguments: Arguments after `env`.
        folder: Folder of the environments that need no --environment.
    """
    given = make_parser().parse_args(arguments)
    try:
        given.work(given, Path(folder).expanduser())
    except ModelLoadError as error:
        sys.stderr.write(f"{_PROGRAM}: error: {error}\n")
        return 1
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments after `env`."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM, description="Environments of Python for models that cannot share one."
    )
    commands = parser.add_subparsers(required=True, metavar="create|list")
    _add_create(commands)
    listing = commands.add_parser("list", help="list the environments in the folder for them")
    listing.set_defaults(work=_list)
    return parser


def _add_create(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "create",
        help="make an environment for models of some families",
        description="Make an environment and install what engines need for models of some "
        "families, in versions that were tested together.",
        epilog=f"example: {_PROGRAM} create sevenn",
    )
    parser.add_argument("name", metavar="NAME", help="name for #env=NAME in the specs of models")
    parser.add_argument(
        "families",
        nargs="*",
        metavar="FAMILY",
        help=f"families to load there, by default NAME: {', '.join(known_families())}",
    )
    parser.add_argument("--path", help="folder of the environment (default: in the folder for all)")
    parser.add_argument("--tool", choices=("venv", "uv"), default="venv", help="(default: venv)")
    parser.add_argument(
        "--python",
        metavar="PYTHON",
        help="interpreter to make it with, or with uv also a version (default: that of the server)",
    )
    parser.add_argument(
        "--torch-index",
        metavar="URL",
        help="additional package index for torch (default: that of the build of torch here)",
    )
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        dest="requirements",
        metavar="REQUIREMENT",
        help="another package to install, such as that of an ASE calculator",
    )
    parser.add_argument(
        "--unpinned",
        action="store_true",
        help="install the latest versions that are allowed instead of those of this release",
    )
    parser.set_defaults(work=_create)


def _create(given: argparse.Namespace, folder: Path) -> None:
    if not is_model_name(given.name) or given.name == MAIN:
        raise ModelLoadError(
            f"expected a name of letters, digits, '.', '_' and '-' other than {MAIN!r}, "
            f"got {given.name!r}"
        )
    index = given.torch_index
    plan = EnvironmentPlan(
        folder=Path(given.path).expanduser() if given.path else folder / given.name,
        families=given.families or [given.name],
        tool=given.tool,
        python=_interpreter(given.python) if given.python else sys.executable,
        torch_index=torch_index_of_this() if index is None else index,
        requirements=given.requirements,
        is_pinned=not given.unpinned,
    )
    python = create(plan)
    flag = f" --environment {given.name}={python}" if given.path else ""
    family = plan.families[0]
    sys.stdout.write(
        f"Made {python}. Serve models from it:\n"
        f"  twinforce-server{flag} --model 'NAME={family}:MODEL#env={given.name}'\n"
    )


def _interpreter(text: str) -> str:
    """Return the path of an interpreter that a user names by path, command or version."""
    for each in (str(Path(text).expanduser()), f"python{text}"):
        if (found := shutil.which(each)) is not None:
            return found
    return text


def _list(_: argparse.Namespace, folder: Path) -> None:
    found = known_environments(folder)
    if not found:
        sys.stdout.write(f"There are no environments in {folder}.\n")
        return
    rows = [("name", "python", "twinforce", "interpreter")]
    rows += [(name, *_versions(python), str(python)) for name, python in found.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _versions(python: Path) -> tuple[str, str]:
    """Return the versions of Python and of twinforce in an environment."""
    done = subprocess.run(
        [python, "-I", "-c", _VERSIONS], capture_output=True, text=True, check=False
    )
    version, _, twinforce = done.stdout.strip().partition(" ")
    return version or "does not run", twinforce
