"""`twinforce completion`: write the script that completes the command line in a shell."""

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

from twinforce.cli.arguments import add_command
from twinforce.cli.files import require

_SHELLS = ("bash", "zsh", "tcsh", "fish")


def add_completion_command(
    commands: Any, build_parser: Callable[[], argparse.ArgumentParser]
) -> None:
    """Add the command to the command line.

    Args:
        commands: The subparsers to add to.
        build_parser: Function that returns the parser of the whole command line.
    """
    parser = add_command(
        commands,
        "completion",
        "SHELL",
        summary="write the script that completes commands, options and files in a shell",
        example='eval "$(twinforce completion bash)"',
    )
    parser.add_argument("shell", choices=_SHELLS, help="shell to write it for")
    parser.set_defaults(command=lambda args: _run(args, build_parser()))


def _run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    shtab = require("shtab")
    for action in _actions_of(parser):
        if action.metavar in ("FILE", "FOLDER"):
            action.complete = shtab.FILE if action.metavar == "FILE" else shtab.DIRECTORY  # type: ignore[attr-defined]
    sys.stdout.write(shtab.complete(parser, args.shell) + "\n")


def _actions_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions_of(command)
