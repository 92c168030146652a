"""The command line, `twinforce`: ask how a service is, evaluate and relax systems, and more.

The exit status is 0 on success, 1 if the service refused, failed, could not be reached or (for
`twinforce status`) is not ready, 2 for wrong usage or a file that cannot be read or written, 3 if a
relaxation did not converge, and 128 plus the number of a signal that ended the command: 130 if
interrupted, 143 if terminated.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from twinforce.cli.assess import add_assess_command
from twinforce.cli.bench import add_bench_command
from twinforce.cli.completion import add_completion_command
from twinforce.cli.distill import add_distill_command
from twinforce.cli.mcp import add_mcp_command
from twinforce.cli.md import add_md_command
from twinforce.cli.models import add_models_command
from twinforce.cli.predict import add_predict_command
from twinforce.cli.progress import say
from twinforce.cli.relax import add_relax_command
from twinforce.cli.server import add_server_command
from twinforce.cli.signals import Interrupted, interruptible
from twinforce.cli.status import add_status_command
from twinforce_proto import ServiceError
from twinforce_proto.errors import ERRORS

_EPILOG = """\
example:
  twinforce predict water.xyz --outputs hybrid --output predicted.xyz

exit status: 0 success; 1 the service refused, failed, could not be reached or,
for status, is not ready; 2 wrong usage or a file that cannot be read or
written; 3 a relaxation that did not converge; 130 interrupted, 143 terminated"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, show the warnings of the client, and exit."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("twinforce: %(message)s"))
    logging.getLogger("twinforce").addHandler(handler)
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = build_parser().parse_args(arguments)
    try:
        with interruptible():
            status: int | None = args.command(args)
    except ServiceError as error:
        return _report_error(f"{_kind_of(error)}: {error}", 1)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        return _report_error(str(error), 2)
    except Interrupted as interrupt:
        return _report_error(str(interrupt), 128 + interrupt.number)
    except KeyboardInterrupt:
        return _report_error("interrupted", 130)
    return status or 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="twinforce",
        description="Energies and forces from a TwinForce service.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_status_command(commands)
    add_models_command(commands)
    add_predict_command(commands)
    add_relax_command(commands)
    add_md_command(commands)
    add_bench_command(commands)
    add_assess_command(commands)
    add_distill_command(commands)
    add_mcp_command(commands)
    add_server_command(commands)
    add_completion_command(commands, build_parser)
    return parser


def _kind_of(error: ServiceError) -> str:
    """Return the name of an error in the tree of the service, also if it is one of ASE, too."""
    return next(each.__name__ for each in type(error).__mro__ if each.__name__ in ERRORS)


def _report_error(text: str, status: int) -> int:
    say(f"twinforce: {' '.join(text.split())}")
    return status
