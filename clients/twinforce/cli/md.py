"""`twinforce md`: run molecular dynamics with the forces of a service."""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

from twinforce.cli.arguments import (
    add_command,
    add_file,
    add_hydrogen_mass,
    add_model,
    add_service_options,
    non_negative,
    positive,
    service_options,
)
from twinforce.cli.files import read_atoms, require
from twinforce.md import (
    Ensemble,
    ForceChoice,
    Instant,
    LogWriter,
    MDSettings,
    Thermostat,
    conserved_drift,
    dynamics_of,
    follow,
    follow_on_server,
    plot_runs,
)

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
        "until it has taken --steps steps",
    )


def _run(args: argparse.Namespace) -> None:
    (atoms,) = read_atoms(args.file, args.index)[-1:]
    if args.new_velocities:
        atoms.set_array("momenta", None)
    if args.plot:
        require("matplotlib.figure")
    ase = require("twinforce.ase")
    if args.hydrogen_mass:
        ase.repartition_hydrogen_mass(atoms, args.hydrogen_mass)
    if args.forces == "direct" and args.ensemble == "nve":
        _show_warning(
            "direct forces are not the gradient of an energy: without a thermostat the system "
            "will heat up or cool down"
        )
    written: list[Instant] = []
    with (
        ase.TwinForceCalculator(args.url, model=args.model, **service_options(args)) as atoms.calc,
        warnings.catch_warnings(),
    ):
        atoms.calc.set(force_kind="direct" if args.forces == "direct" else "conservative")
        warnings.simplefilter("ignore", ase.DirectForcesWarning)
        warnings.showwarning = _show_warning
        try:
            _simulate(atoms, args, written)
        finally:
            _summarize(written, len(atoms), args.plot)


def _simulate(atoms: Any, args: argparse.Namespace, written: list[Instant]) -> None:
    """Run to the end; write states at each interval and append them to `written`."""
    settings = _settings_of(args)
    is_continued = args.restart is not None and args.restart.exists()
    dynamics = dynamics_of(atoms, settings, args.restart if is_continued else None)
    with ExitStack() as files:
        writers = list(_writers(args, atoms, files, is_continued=is_continued))
        if args.restart:
            writers.append(lambda _: dynamics.save(args.restart))
        bar = files.enter_context(
            require("tqdm").tqdm(total=args.steps, unit="step", disable=None, smoothing=0.1)
        )
        states = (
            follow_on_server(dynamics, settings, args.interval)
            if args.on_server
            else follow(dynamics, settings)
        )
        for index, state in enumerate(states):
            bar.update(state.step - bar.n)
            if state.step // dynamics.inner_steps % args.interval == 0:
                bar.set_postfix_str(f"{state.temperature_k:.0f} K", refresh=False)
                written.append(state)
                is_in_files = is_continued and index == 0
                for write in [] if is_in_files else writers:
                    write(state)


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


def _writers(
    args: argparse.Namespace, atoms: Any, files: ExitStack, *, is_continued: bool
) -> Iterator[Callable[[Instant], None]]:
    mode = "a" if is_continued else "w"
    if args.log:
        has_header = is_continued and args.log.exists() and args.log.stat().st_size > 0
        file = files.enter_context(args.log.open(mode, newline=""))
        yield LogWriter(file, has_header=has_header).write
    if args.trajectory:
        yield _trajectory_writer(args.trajectory, atoms, files, mode)


def _trajectory_writer(
    path: Path, atoms: Any, files: ExitStack, mode: str
) -> Callable[[Instant], None]:
    if path.suffix == ".traj":
        trajectory = files.enter_context(require("ase.io.trajectory").Trajectory(path, mode, atoms))
        return lambda _: trajectory.write()
    if path.suffix not in (".xyz", ".extxyz"):
        raise ValueError(f"{path}: expected a name that ends in .traj, .xyz or .extxyz")
    file = files.enter_context(path.open(mode))
    return lambda _: require("ase.io").write(file, atoms, format="extxyz")


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Write a warning on one line, as errors are written."""
    sys.stderr.write(f"twinforce: warning: {message}\n")


def _summarize(written: list[Instant], n_atoms: int, plot: Path | None) -> None:
    """Print a summary of the run, also of an interrupted one, and plot it."""
    if not written:
        return
    last = written[-1]
    drift = conserved_drift(written, n_atoms)
    text = (
        ""
        if drift is None
        else f"; drift of the conserved energy {drift.rate:+.3f} ± {drift.error:.3f} meV/atom/ps"
    )
    sys.stderr.write(
        f"{last.step} steps, {last.time_fs * 1e-3:g} ps; final temperature "
        f"{last.temperature_k:.1f} K{text}\n"
    )
    if plot is not None:
        plot_runs({"run": written}, n_atoms, plot)
