"""`twinforce md`: run molecular dynamics with the forces of a service."""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from twinforce.cli.arguments import (
    add_command,
    add_file,
    add_hydrogen_mass,
    add_model,
    add_quiet,
    add_service_options,
    non_negative,
    positive,
    service_options,
)
from twinforce.cli.files import check_image, check_outputs, read_atoms, require, without_results
from twinforce.cli.progress import say, suggest
from twinforce.cli.simulation import Simulation
from twinforce.md import Ensemble, ForceChoice, MDSettings, Thermostat
from twinforce.md.columns import VelocityUnit, drop_velocities, take_masses, take_velocities
from twinforce.md.summary import counted

_DEFAULTS = MDSettings()
_EXAMPLE = """\
twinforce md water.xyz --forces hybrid --inner-steps 4 --ensemble svr \\
      --steps 2000 --trajectory run.traj --log run.csv --plot run.png"""


def add_md_command(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "md", "FILE", summary="run molecular dynamics", example=_EXAMPLE)
    _add_system(parser.add_argument_group("system"))
    _add_forces(parser.add_argument_group("forces"))
    _add_steps(parser.add_argument_group("steps"))
    _add_ensemble(parser.add_argument_group("ensemble"))
    _add_output(parser.add_argument_group("output"))
    add_service_options(parser)
    parser.set_defaults(command=_run)


def _add_system(group: Any) -> None:
    add_file(
        group,
        index="-1",
        index_help="system in the file to start from (default: %(default)s, the last one)",
    )
    add_hydrogen_mass(group)
    group.add_argument(
        "--new-velocities",
        action="store_true",
        help="draw velocities even if the file has some",
    )
    group.add_argument(
        "--velocity-units",
        choices=get_args(VelocityUnit),
        help="unit of velocities in a column of the file, such as velocities or vel "
        "(default: that of the program that uses the name, which vel and velo have)",
    )


def _add_forces(group: Any) -> None:
    add_model(group)
    group.add_argument(
        "--forces",
        choices=get_args(ForceChoice),
        default=_DEFAULTS.forces,
        help="forces that drive the dynamics; hybrid is multiple time stepping "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--inner-steps",
        type=positive(int),
        default=_DEFAULTS.inner_steps,
        metavar="M",
        help="inner steps in an outer one with hybrid forces, which evaluate direct forces at "
        "each and both kinds at the last (default: %(default)s)",
    )


def _add_steps(group: Any) -> None:
    add = group.add_argument
    add(
        "--steps",
        type=positive(int),
        default=_DEFAULTS.n_steps,
        metavar="N",
        help="number of inner steps (default: %(default)s)",
    )
    add(
        "--time-step",
        type=positive(float),
        default=_DEFAULTS.time_step_fs,
        metavar="FS",
        help="length of an inner step, in fs (default: %(default)g)",
    )
    add(
        "--seed",
        type=non_negative,
        default=_DEFAULTS.seed,
        metavar="N",
        help="seed of all random numbers (default: %(default)s)",
    )
    add(
        "--on-server",
        action="store_true",
        help="take the steps on the server, which sends only the states to write",
    )


def _add_ensemble(group: Any) -> None:
    add = group.add_argument
    add(
        "--ensemble",
        choices=get_args(Ensemble),
        default=_DEFAULTS.ensemble,
        help="constant energy, a thermostat, or constant pressure (default: %(default)s)",
    )
    add(
        "--temperature",
        type=positive(float),
        default=_DEFAULTS.temperature_k,
        metavar="K",
        help="temperature of the thermostat and of new velocities, in K (default: %(default)g)",
    )
    add(
        "--thermostat",
        choices=get_args(Thermostat),
        default=_DEFAULTS.thermostat,
        help="thermostat at constant pressure (default: %(default)s)",
    )
    add(
        "--relaxation",
        type=positive(float),
        default=_DEFAULTS.relaxation_fs,
        metavar="FS",
        help="relaxation time of the thermostat, in fs (default: %(default)g)",
    )
    add(
        "--pressure",
        type=float,
        default=_DEFAULTS.pressure_bar,
        metavar="BAR",
        help="pressure of the barostat, in bar (default: %(default)g)",
    )
    add(
        "--pressure-relaxation",
        type=positive(float),
        default=_DEFAULTS.pressure_relaxation_fs,
        metavar="FS",
        help="relaxation time of the volume, in fs (default: %(default)g)",
    )
    add(
        "--compressibility",
        type=positive(float),
        default=_DEFAULTS.compressibility_per_bar,
        metavar="PER_BAR",
        help="approximate compressibility of the system, in 1/bar, which sets how fast the cell "
        "responds (default: %(default)g)",
    )


def _add_output(group: Any) -> None:
    add = group.add_argument
    add(
        "--interval",
        type=positive(int),
        default=10,
        metavar="N",
        help="number of outer steps between states to write (default: %(default)s)",
    )
    add(
        "--trajectory",
        type=Path,
        metavar="FILE",
        help="write the trajectory to this .traj, .xyz or .extxyz file",
    )
    add(
        "--log",
        type=Path,
        metavar="FILE",
        help="write energies and temperatures to this file, as comma-separated values",
    )
    add(
        "--plot",
        type=Path,
        metavar="FILE",
        help="plot energy and temperature to this image file",
    )
    add(
        "--restart",
        type=Path,
        metavar="FILE",
        help="save the run to this file at each interval; if the file exists, continue that run "
        "until it has taken --steps steps, with its --log and --trajectory",
    )
    add(
        "--allow-model-change",
        action="store_true",
        help="go on if the service has other weights than those that the run began with, "
        "also on a restart; without it that is an error",
    )
    add_quiet(group)


def _run(args: argparse.Namespace) -> None:
    files = ("trajectory", "log", "plot", "restart")
    check_outputs(args.file, {f"--{name}": getattr(args, name) for name in files})
    (atoms,) = read_atoms(args.file, args.index)[-1:]
    atoms = without_results(atoms)
    if args.plot:
        check_image(args.plot)
    ase = require("twinforce.ase")
    remarks = [f"{args.file}: {counted(len(atoms), 'atom')}", *_taken(atoms, args)]
    if args.forces == "direct" and args.ensemble == "nve":
        _show_warning(
            "direct forces are not the gradient of an energy: without a thermostat the system "
            "will heat up or cool down"
        )
    with (
        ase.TwinForceCalculator(
            args.url,
            model=args.model,
            allow_model_change=args.allow_model_change,
            **service_options(args),
        ) as atoms.calc,
        warnings.catch_warnings(),
    ):
        atoms.calc.set(force_kind="direct" if args.forces == "direct" else "conservative")
        warnings.simplefilter("ignore", ase.DirectForcesWarning)
        warnings.showwarning = _show_warning
        Simulation(atoms, _settings_of(args), args).run(remarks)
    if not args.quiet:
        suggest(args, ["bench" if args.forces == "conservative" else "assess", str(args.file)])


def _taken(atoms: Any, args: argparse.Namespace) -> Iterator[str]:
    """Use what the file says beyond positions, and yield what was done with it."""
    if masses := take_masses(atoms):
        yield masses
    masses_of_file = atoms.get_masses()
    if args.hydrogen_mass:
        require("twinforce.ase").repartition_hydrogen_mass(atoms, args.hydrogen_mass)
    if atoms.constraints:
        yield f"constraints of the file: {', '.join(map(_described, atoms.constraints))}"
    for name in ("charge", "spin", "spin_multiplicity"):
        if name in atoms.info:
            yield f"{name} {atoms.info[name]} of the file"
    if args.restart is not None and args.restart.exists():
        drop_velocities(atoms)
        yield "velocities: those of the restart file"
    elif args.new_velocities:
        had_some = drop_velocities(atoms)
        yield f"velocities: drawn at {args.temperature:g} K" + (
            "; those of the file are not used" if had_some else ""
        )
    else:
        found = take_velocities(atoms, args.velocity_units)
        drawn = f"drawn at {args.temperature:g} K, none were read from the file"
        yield f"velocities: {found or drawn}"
        if found and (atoms.get_masses() != masses_of_file).any():
            yield (
                "masses: changed by --hydrogen-mass, which changes the temperature of the "
                "velocities of the file; --new-velocities draws others"
            )


def _described(constraint: Any) -> str:
    n_atoms = len(getattr(constraint, "index", ()))
    return f"{type(constraint).__name__} of {counted(n_atoms, 'atom')}"


def _settings_of(args: argparse.Namespace) -> MDSettings:
    return MDSettings(
        forces=args.forces,
        inner_steps=args.inner_steps,
        ensemble=args.ensemble,
        thermostat=args.thermostat,
        n_steps=args.steps,
        time_step_fs=args.time_step,
        temperature_k=args.temperature,
        relaxation_fs=args.relaxation,
        pressure_bar=args.pressure,
        pressure_relaxation_fs=args.pressure_relaxation,
        compressibility_per_bar=args.compressibility,
        seed=args.seed,
    )


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Write a warning on one line, as errors are written."""
    say(f"twinforce: warning: {message}")
