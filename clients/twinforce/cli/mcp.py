"""`twinforce mcp`: let agents use the service, over the Model Context Protocol."""

import argparse
from typing import Any

from twinforce._async_client import AsyncClient
from twinforce.cli.arguments import add_command, add_service_options, positive, service_options
from twinforce.cli.files import require
from twinforce.mcp.limits import AgentLimits


def add_mcp_command(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "mcp",
        "",
        summary="let agents use the service (Model Context Protocol)",
        example="twinforce mcp --max-atoms=200 --max-seconds=30",
    )
    limits, defaults = parser.add_argument_group("limits of one call"), AgentLimits()
    limits.add_argument(
        "--max-atoms",
        type=positive(int),
        default=defaults.max_atoms,
        metavar="N",
        help="atoms of a system (default: %(default)s)",
    )
    limits.add_argument(
        "--max-steps",
        type=positive(int),
        default=defaults.max_steps,
        metavar="N",
        help="steps of a relaxation or of molecular dynamics (default: %(default)s)",
    )
    limits.add_argument(
        "--max-seconds",
        type=positive(float),
        default=defaults.max_seconds,
        metavar="SECONDS",
        help="time after which a call ends, in s (default: %(default)g)",
    )
    add_service_options(parser)
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> None:
    server = require("twinforce.mcp.server", extra="mcp")
    limits = AgentLimits(args.max_atoms, args.max_steps, args.max_seconds)
    server.serve(AsyncClient(args.url, **service_options(args)), limits)
