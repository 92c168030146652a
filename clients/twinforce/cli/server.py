"""`twinforce server`: run the service, as `twinforce-server` does."""

import argparse
import importlib.util
import os
import sys
from typing import Any

_MODULE = "twinforce_service.main"


def add_server_command(commands: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "server",
        help="run the service; the same as twinforce-server",
        # Everything that follows is for the service: no argument is an option here.
        add_help=False,
        prefix_chars="\0",
    )
    parser.add_argument("arguments", nargs="*")
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> None:
    """Replace this process with the service, which gets signals and the exit status directly.

    Raises:
        ModuleNotFoundError: The service is not installed.
    """
    for package in ("twinforce_service", "fastapi", "torch"):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"the service needs {package}: pip install 'twinforce[server]'"
            )
    os.execv(sys.executable, [sys.executable, "-m", _MODULE, *args.arguments])  # noqa: S606
