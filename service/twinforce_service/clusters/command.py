"""The command `twinforce-server slurm`: print templates of batch scripts, to edit and submit."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

_PROGRAM = "twinforce-server slurm"
_FOLDER = Path(__file__).with_name("templates")
# Name of a template -> its file.
_FILES = {
    "serve": "serve.sbatch",
    "clients": "clients.sbatch",
    "container": "twinforce.def",
}


def run(arguments: Sequence[str]) -> int:
    """Run the command with these arguments; return its exit code.

    Args:
        arguments: Arguments after `slurm`.
    """
    given = make_parser().parse_args(arguments)
    sys.stdout.write((_FOLDER / _FILES[given.template]).read_text())
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments after `slurm`."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Print a template to edit: a batch script that starts one server per GPU, one "
        "that runs many simulations as its clients, or the definition of an Apptainer container.",
        epilog=f"example: {_PROGRAM} serve > serve.sbatch && sbatch serve.sbatch",
    )
    parser.add_argument("template", choices=_FILES, help="template to print")
    return parser
