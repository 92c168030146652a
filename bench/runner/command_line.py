"""The command line that all measurements share."""

import argparse
from pathlib import Path

from bench.runner.machine import ROOT


class BenchHelpFormatter(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """A help formatter that keeps line breaks and shows the defaults that are not empty."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default in (None, False, "", argparse.SUPPRESS):
            return action.help
        if isinstance(default, Path) and default.is_relative_to(ROOT):
            return f"{action.help} (default: {default.relative_to(ROOT)})"
        if isinstance(default, list):
            return f"{action.help} (default: {', '.join(default)})"
        return super()._get_help_string(action)


def parser_of(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser for the command `python -m MODULE`.

    Args:
        module: Full name of the module.
        description: Text above the options, with an example of the command.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=BenchHelpFormatter
    )
