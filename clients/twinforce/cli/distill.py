"""`twinforce distill`: turn a conservative model into a hybrid for one's own system."""

import argparse
import sys
from pathlib import Path
from typing import Any

from twinforce.cli.arguments import (
    add_command,
    add_file,
    add_hydrogen_mass,
    add_quiet,
    add_service_options,
    non_negative,
    positive,
    service_options,
)
from twinforce.cli.files import read_atoms, require, without_results
from twinforce.md.columns import take_masses

_EXAMPLE = """\
twinforce distill water.xyz --teacher mace:small --out water-hybrid \\
      --temperature 300 350 --minutes 60"""


def add_distill_command(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "distill",
        "FILE",
        summary="turn a conservative model into a faster hybrid for one system",
        example=_EXAMPLE,
    )
    system = parser.add_argument_group("system")
    add_file(
        system,
        index="-1",
        index_help="systems in the file to sample from, the first of which is measured "
        "(default: %(default)s, the last one)",
    )
    add_hydrogen_mass(system)
    system.add_argument(
        "--isolated",
        action="store_true",
        help="accept a file without a cell: its atoms are an isolated molecule or cluster",
    )
    _add_teacher(parser.add_argument_group("teacher"))
    _add_student(parser.add_argument_group("student"))
    _add_sampling(parser.add_argument_group("sampling"))
    _add_output(parser.add_argument_group("output"))
    add_service_options(parser)
    parser.set_defaults(command=_run)


def _add_teacher(group: Any) -> None:
    add = group.add_argument
    add(
        "--teacher",
        required=True,
        metavar="MODEL",
        help="model to distill: a spec as for twinforce-server, such as mace:small or a path, for "
        "which a service is started; or the name of a model of the running service at --url",
    )
    add(
        "--dtype",
        choices=("float32", "float64", "auto"),
        default="float32",
        help="type that services started here compute in (default: %(default)s)",
    )
    add(
        "--device",
        default="auto",
        help="device that they compute on: auto, cpu, cuda or cuda:N (default: %(default)s)",
    )
    add(
        "--threads",
        type=non_negative,
        default=0,
        metavar="N",
        help="CPU threads of an evaluation and of the training; 0 leaves it to the programs "
        "(default: %(default)s)",
    )
    add(
        "--trust-pickles",
        action="store_true",
        help="load files of models even if reading them could run code that they contain",
    )
    add(
        "--trust-packages",
        default="",
        metavar="LIST",
        help="comma-separated packages of ASE calculators that the spec may name",
    )
    add(
        "--environment",
        action="append",
        metavar="NAME=PYTHON",
        help="environment of Python that the spec may name by #env=NAME; may be repeated",
    )


def _add_student(group: Any) -> None:
    add = group.add_argument
    add(
        "--student",
        choices=("fast", "accurate"),
        default="fast",
        help="size of the network: fast suffices for stiff motion, accurate differs less from "
        "the teacher (default: %(default)s)",
    )
    add(
        "--name",
        default="student",
        help="name of the student in its model folder (default: %(default)s)",
    )
    add(
        "--no-compile",
        action="store_true",
        help="do not compile networks, which takes a minute at the start",
    )
    add(
        "--training-option",
        action="append",
        metavar="FLAG",
        help="further flag for twinforce-train, such as --training-option=--seed=2; may be "
        "repeated",
    )


def _add_sampling(group: Any) -> None:
    add = group.add_argument
    add(
        "--temperature",
        type=positive(float),
        nargs="+",
        default=[300.0],
        metavar="K",
        help="temperatures to sample at, in K, besides one above them; the hybrid is measured at "
        "the first (default: 300)",
    )
    add(
        "--strain",
        type=float,
        nargs="+",
        default=[],
        metavar="S",
        help="isotropic strains of the cell to sample at, such as -0.02 0.02 (default: only the "
        "cell of the file)",
    )
    add(
        "--time-step",
        type=positive(float),
        metavar="FS",
        help="length of an inner step, in fs (default: 0.5 with light hydrogens, else 1)",
    )
    add(
        "--rounds",
        type=positive(int),
        default=3,
        metavar="N",
        help="rounds of sampling and training (default: %(default)s)",
    )
    add(
        "--seed",
        type=non_negative,
        default=0,
        metavar="N",
        help="seed of all random numbers (default: %(default)s)",
    )


def _add_output(group: Any) -> None:
    add = group.add_argument
    add(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of all results; a distillation in it is continued",
    )
    add(
        "--minutes",
        type=positive(float),
        default=60.0,
        metavar="MINUTES",
        help="limit of the wall time over all attempts, in minutes (default: %(default)g)",
    )
    add(
        "--anew",
        action="store_true",
        help="delete a distillation in the folder and start over",
    )
    add_quiet(group)


def _run(args: argparse.Namespace) -> None:
    for package in ("matplotlib", "tqdm"):
        require(package)
    distill = require("twinforce.distill")
    progress = require("twinforce.assess").Progress(is_shown=not args.quiet)
    systems = [_prepared(atoms, args) for atoms in read_atoms(args.file, args.index)]
    lightest = args.hydrogen_mass or min(float(atoms.get_masses().min()) for atoms in systems)
    options = distill.ServiceOptions(
        dtype=args.dtype,
        device=args.device,
        threads=args.threads,
        trust_pickles=args.trust_pickles,
        trust_packages=args.trust_packages,
        environments=tuple(args.environment or []),
        is_compiled=not args.no_compile,
    )
    settings = distill.DistillSettings(
        teacher=args.teacher,
        temperatures_k=tuple(args.temperature),
        strains=tuple(args.strain),
        time_step_fs=args.time_step or distill.default_time_step_fs(lightest),
        hydrogen_mass=args.hydrogen_mass,
        student=args.student,
        rounds=args.rounds,
        minutes=args.minutes,
        seed=args.seed,
        name=args.name,
        training_flags=(
            *(args.training_option or []),
            *(["--no-compile"] if args.no_compile else []),
        ),
        service=options,
    )
    source = distill.TeacherSource.of(args.teacher, args.url, options, service_options(args))
    report = distill.distill(systems, source, settings, args.out, anew=args.anew, progress=progress)
    _show(report, args)


def _prepared(atoms: Any, args: argparse.Namespace) -> Any:
    """Return a system of the file without results, after a check that it has a cell."""
    atoms = without_results(atoms)
    take_masses(atoms)
    if not atoms.pbc.any() and not args.isolated:
        raise ValueError(
            f"{args.file}: expected a periodic cell, got none: give one in the file (extended XYZ, "
            "CIF, POSCAR, ...), or --isolated if the atoms are a molecule or cluster"
        )
    return atoms


def _show(report: Any, args: argparse.Namespace) -> None:
    """Write the recommendation and the commands."""
    lines = [*report["recommendation"]["reasons"], ""]
    lines += [f"  {command}" for command in report["commands"].values()]
    sys.stdout.write("\n".join([*lines, "", str(args.out / "report.html")]) + "\n")
