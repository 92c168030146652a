"""The command line, `twinforce`: what is served, files, molecular dynamics, assessments.

Exit status: 0 done, 1 the service refused, failed or could not be reached, 2 wrong usage or a
file that cannot be read or written, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from twinforce.cli.assess import add_assess_command
from twinforce.cli.md import add_md_command
from twinforce.cli.models import add_models_command
from twinforce.cli.predict import add_predict_command
from twinforce_proto import ServiceError

_DEFAULT_URL = "grpc://127.0.0.1:8001"
_URL_VARIABLE = "TWINFORCE_URL"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    given = _parser().parse_args(arguments)
    try:
        given.command(given)
    except ServiceError as error:
        return _complain(f"{type(error).__name__}: {error}", 1)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        return _complain(str(error), 2)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    return 0


def _complain(text: str, status: int) -> int:
    sys.stderr.write(f"twinforce: {' '.join(text.split())}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="twinforce", description="Energies and forces from a TwinForce service."
    )
    asking = argparse.ArgumentParser(add_help=False)
    asking.add_argument(
        "--url",
        default=os.environ.get(_URL_VARIABLE, _DEFAULT_URL),
        help=f"of the service, grpc:// or http:// (default: ${_URL_VARIABLE}, else {_DEFAULT_URL})",
    )
    asking.add_argument(
        "--timeout", type=float, default=60.0, help="of one request, in s (default: 60)"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add_command in (
        add_models_command,
        add_predict_command,
        add_md_command,
        add_assess_command,
    ):
        add_command(commands, asking)
    return parser
