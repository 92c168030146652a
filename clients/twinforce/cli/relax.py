"""`twinforce relax`: relax a system in a fixed cell, on the server."""

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from twinforce._client import Client
from twinforce.cli.arguments import (
    add_command,
    add_file,
    add_model,
    add_quiet,
    add_service_options,
    non_negative,
    positive,
    service_options,
)
from twinforce.cli.files import (
    check_atoms,
    check_outputs,
    format_to_write,
    read_atoms,
    require,
    without_results,
    write_atoms,
)
from twinforce.cli.progress import ProgressMeter, say, suggest
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.requests import DEFAULT_FMAX, DEFAULT_MAX_STEPS

_Forces = Literal["hybrid", "conservative", "direct"]
# Exit status of a relaxation that took all its steps without converging.
NOT_CONVERGED = 3


def add_relax_command(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "relax",
        "FILE",
        summary="relax a system in a fixed cell, on the server",
        example="twinforce relax water.xyz --fmax 0.02 --output relaxed.xyz",
    )
    add_file(
        parser.add_argument_group("system"),
        index="-1",
        index_help="system in the file to relax (default: %(default)s, the last one)",
    )
    _add_relaxation(parser.add_argument_group("relaxation"))
    _add_output(parser.add_argument_group("output"))
    add_service_options(parser)
    parser.set_defaults(command=_run)


def _add_relaxation(group: Any) -> None:
    add_model(group)
    group.add_argument(
        "--forces",
        choices=get_args(_Forces),
        help="forces to follow; hybrid follows direct ones first and finishes on conservative "
        "ones (default: hybrid if the model has both kinds, else the kind that it has)",
    )
    group.add_argument(
        "--fmax",
        type=positive(float),
        default=DEFAULT_FMAX,
        metavar="FORCE",
        help="largest force on an atom at convergence, in eV/Å (default: %(default)g)",
    )
    group.add_argument(
        "--max-steps",
        type=positive(int),
        default=DEFAULT_MAX_STEPS,
        metavar="N",
        help="number of steps after which to give up (default: %(default)s)",
    )
    group.add_argument(
        "--allow-model-change",
        action="store_true",
        help="go on if the service has other weights than those that the relaxation began with; "
        "without it that is an error",
    )


def _add_output(group: Any) -> None:
    group.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="file to write the relaxed system to, in any ASE format (default: standard output, "
        "as extended XYZ)",
    )
    group.add_argument(
        "--trajectory",
        type=Path,
        metavar="FILE",
        help="write the states on the way to this file, in any ASE format that holds several",
    )
    group.add_argument(
        "--interval",
        type=non_negative,
        default=10,
        metavar="N",
        help="number of steps between states, or 0 for the last one only (default: %(default)s)",
    )
    add_quiet(group)


def _run(args: argparse.Namespace) -> int:
    check_outputs(args.file, {"--output": args.output, "--trajectory": args.trajectory})
    formats = {path: format_to_write(path) for path in (args.output, args.trajectory)}
    (atoms,) = read_atoms(args.file, args.index)[-1:]
    atoms = without_results(atoms)
    start = _labeled(atoms, atoms.positions, 0.0)
    check_atoms(args.output, [start], formats[args.output])
    if args.trajectory is not None:
        check_atoms(args.trajectory, [start, start], formats[args.trajectory])
    states: list[Any] = []
    try:
        with Client(args.url, **service_options(args)) as client:
            last = _follow(client, atoms, states, args)
    finally:
        if args.trajectory is not None and states:
            write_atoms(args.trajectory, states, formats[args.trajectory])
    write_atoms(args.output, states[-1:], formats[args.output])
    if not args.quiet:
        say(_summary(last, args.fmax))
        if args.output is not None and last.is_converged:
            suggest(args, ["md", str(args.output), "--new-velocities"])
    return 0 if last.is_converged else NOT_CONVERGED


def _follow(client: Client, atoms: Any, states: list[Any], args: argparse.Namespace) -> Relaxed:
    """Add the states on the way to a list, and return the last report."""
    info = client.model(args.model)
    reports = client.relax(
        atoms,
        force_kind=args.forces or _forces_of(info.outputs),
        fmax=args.fmax,
        max_steps=args.max_steps,
        interval=args.interval,
        model=info.name,
        allow_model_change=args.allow_model_change,
    )
    with ProgressMeter(args.max_steps, "steps", is_quiet=args.quiet) as meter:
        for report in reports:
            states.append(_labeled(atoms, report.positions, report.energy))
            meter.update(report.step, f"{report.largest_force:.3g} eV/Å, {report.driven_by}")
    return report


def _forces_of(outputs: Collection[str]) -> _Forces:
    if "direct_forces" not in outputs:
        return "conservative"
    return "hybrid" if "conservative_forces" in outputs else "direct"


def _labeled(atoms: Any, positions: Any, energy: float) -> Any:
    """Return a copy of the atoms at other positions, with their energy."""
    single_point = require("ase.calculators.singlepoint").SinglePointCalculator
    moved = atoms.copy()
    moved.set_positions(np.array(positions), apply_constraint=False)
    moved.arrays.pop("momenta", None)
    moved.calc = single_point(moved, energy=energy)
    return moved


def _summary(last: Relaxed, fmax: float) -> str:
    outcome = "converged" if last.is_converged else "not converged"
    comparison = "" if last.is_converged else f", which is more than {fmax:g}"
    return (
        f"{outcome} after {last.step} steps: energy {last.energy:.6f} eV, largest "
        f"{last.driven_by} force {last.largest_force:.3g} eV/Å{comparison}"
    )
