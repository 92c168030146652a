"""`twinforce assess`: measure what the direct forces of a model are good for."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from twinforce._client import Client
from twinforce.cli.arguments import (
    add_command,
    add_file,
    add_hydrogen_mass,
    add_model,
    add_quiet,
    add_service_options,
    non_negative,
    service_options,
)
from twinforce.cli.files import read_atoms, require
from twinforce.cli.progress import suggest
from twinforce.md.columns import take_masses

# Those of `twinforce.assess`, which cannot be imported without optional packages.
_PRESETS = ("quick", "standard", "paper")


def add_assess_command(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "assess",
        "FILE",
        summary="measure how safe direct forces and multiple time stepping are",
        example="twinforce assess water.xyz --preset quick --budget 20 --output assessment",
    )
    system = parser.add_argument_group("system")
    add_file(
        system,
        index="-1",
        index_help="system in the file to assess (default: %(default)s, the last one)",
    )
    add_hydrogen_mass(system)
    _add_scope(parser.add_argument_group("scope"))
    _add_conditions(parser.add_argument_group("conditions"))
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("assessment"),
        metavar="FOLDER",
        help="folder of the results; an assessment in it is continued (default: %(default)s)",
    )
    output.add_argument(
        "--anew",
        action="store_true",
        help="delete an assessment of another model, system or conditions in the folder",
    )
    add_quiet(output)
    add_service_options(parser)
    parser.set_defaults(command=_run)


def _add_scope(group: Any) -> None:
    add = group.add_argument
    add_model(group)
    add(
        "--preset",
        choices=_PRESETS,
        default="standard",
        help="amount of work (default: %(default)s)",
    )
    add(
        "--pieces",
        default="",
        metavar="LIST",
        help="comma-separated pieces to run: lambda, loops, cost, optimise, resonance, nve, nvt, "
        "or parts of them such as nvt:direct or nvt:hybrid-4:svr:10 (default: all of the preset)",
    )
    add(
        "--budget",
        type=float,
        default=60.0,
        metavar="MINUTES",
        help="limit of the wall time, in minutes; 0 means no limit (default: %(default)g)",
    )


def _add_conditions(group: Any) -> None:
    add = group.add_argument
    add(
        "--temperature",
        type=float,
        default=300.0,
        metavar="K",
        help="temperature of the simulations, in K (default: %(default)g)",
    )
    add(
        "--time-step",
        type=float,
        default=0.5,
        metavar="FS",
        help="length of an inner step, in fs (default: %(default)g)",
    )
    add(
        "--equilibration",
        type=float,
        default=1.0,
        metavar="PS",
        help="length of the equilibration before all simulations, in ps (default: %(default)g)",
    )
    add(
        "--fmax",
        type=float,
        default=0.05,
        metavar="FORCE",
        help="largest force at which an optimization has converged, in eV/Å (default: %(default)g)",
    )
    add(
        "--seed",
        type=non_negative,
        default=0,
        metavar="N",
        help="seed of all random numbers (default: %(default)s)",
    )


def _run(args: argparse.Namespace) -> None:
    for package in ("matplotlib", "tqdm"):
        require(package)
    assess = require("twinforce.assess")
    (atoms,) = read_atoms(args.file, args.index)[-1:]
    take_masses(atoms)
    if args.hydrogen_mass:
        require("twinforce.ase").repartition_hydrogen_mass(atoms, args.hydrogen_mass)
    conditions = assess.Conditions(
        temperature_k=args.temperature,
        time_step_fs=args.time_step,
        equilibration_ps=args.equilibration,
        fmax=args.fmax,
        seed=args.seed,
    )
    with Client(args.url, **service_options(args)) as client:
        report = assess.assess(
            client,
            atoms,
            args.output,
            model=args.model,
            preset=args.preset,
            pieces=[piece.strip() for piece in args.pieces.split(",") if piece.strip()],
            conditions=conditions,
            budget_minutes=args.budget or math.inf,
            anew=args.anew,
            progress=assess.Progress(is_shown=not args.quiet),
        )
    sys.stdout.write("\n".join(report["verdict"]["advice"]) + "\n")
    sys.stdout.write(f"{args.output / 'report.html'}\n")
    if not args.quiet:
        suggest(args, ["md", str(args.file), "--forces", "hybrid"])
