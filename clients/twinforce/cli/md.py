"""`twinforce md`: molecular dynamics on remote forces."""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

from twinforce.cli.arguments import positive, whole
from twinforce.cli.files import need, read_atoms
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


def add_md_command(commands: Any, asking: argparse.ArgumentParser) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "md",
        parents=[asking],
        help="run molecular dynamics",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="the start, in any ASE format")
    add("--index", default="-1", help="which atoms of the file")
    add("--model", help="its name; the only one, else water")
    add(
        "--forces",
        choices=get_args(ForceChoice),
        default=_DEFAULTS.forces,
        help="which ones drive; hybrid is multiple time stepping",
    )
    add(
        "--inner-steps",
        type=positive(int),
        default=_DEFAULTS.inner_steps,
        help="of hybrid forces: how many steps with direct forces per step with both",
    )
    add(
        "--ensemble",
        choices=get_args(Ensemble),
        default=_DEFAULTS.ensemble,
        help="nve, a thermostat, or constant pressure",
    )
    add(
        "--thermostat",
        choices=get_args(Thermostat),
        default=_DEFAULTS.thermostat,
        help="at constant pressure",
    )
    add("--steps", type=positive(int), default=_DEFAULTS.n_steps, help="how many inner ones")
    add("--time-step", type=positive(float), default=_DEFAULTS.time_step_fs, help="in fs")
    add("--temperature", type=positive(float), default=_DEFAULTS.temperature_k, help="in K")
    add(
        "--relaxation",
        type=positive(float),
        default=_DEFAULTS.relaxation_fs,
        help="time of the thermostat, in fs",
    )
    add("--pressure", type=float, default=_DEFAULTS.pressure_bar, help="in bar")
    add(
        "--pressure-relaxation",
        type=positive(float),
        default=_DEFAULTS.pressure_relaxation_fs,
        help="time of the volume, in fs",
    )
    add(
        "--compressibility",
        type=positive(float),
        default=_DEFAULTS.compressibility_per_bar,
        help="about that of the system, in 1/bar: how fast the cell answers",
    )
    add(
        "--on-server",
        action="store_true",
        help="take all steps there: nothing travels between two that are written",
    )
    add("--hydrogen-mass", type=positive(float), help="in amu, taken from bonded atoms")
    add("--seed", type=whole, default=_DEFAULTS.seed, help="of random numbers")
    add("--new-velocities", action="store_true", help="draw them even if the file has some")
    add("--interval", type=positive(int), default=10, help="outer steps between what is written")
    add("--trajectory", type=Path, metavar="FILE", help="to write: .traj, .xyz or .extxyz")
    add("--log", type=Path, metavar="FILE", help="to write: comma-separated values")
    add("--plot", type=Path, metavar="FILE", help="to write: an image of energy and temperature")
    add(
        "--restart",
        type=Path,
        metavar="FILE",
        help="to go on from if it is there, up to --steps in all; and to write at each interval",
    )
    parser.set_defaults(command=_run)


def _run(given: argparse.Namespace) -> None:
    (atoms,) = read_atoms(given.file, given.index)[-1:]
    if given.new_velocities:
        atoms.set_array("momenta", None)
    if given.plot:
        need("matplotlib.figure")
    ase = need("twinforce.ase")
    if given.hydrogen_mass:
        ase.repartition_hydrogen_mass(atoms, given.hydrogen_mass)
    if given.forces == "direct" and given.ensemble == "nve":
        sys.stderr.write(
            "twinforce: warning: direct forces are not the gradient of an energy: without a "
            "thermostat the system will heat up or cool down\n"
        )
    kept: list[Instant] = []
    with (
        ase.TwinForceCalculator(given.url, model=given.model, timeout=given.timeout) as atoms.calc,
        warnings.catch_warnings(),
    ):
        atoms.calc.set(force_kind="direct" if given.forces == "direct" else "conservative")
        warnings.simplefilter("ignore", ase.DirectForcesWarning)
        warnings.showwarning = _tell
        try:
            _follow(atoms, given, kept)
        finally:
            _conclude(kept, len(atoms), given.plot)


def _follow(atoms: Any, given: argparse.Namespace, kept: list[Instant]) -> None:
    """Run to the end; write and keep every so many steps."""
    settings = _settings_of(given)
    goes_on = given.restart is not None and given.restart.exists()
    dynamics = dynamics_of(atoms, settings, given.restart if goes_on else None)
    with ExitStack() as files:
        writers = list(_writers(given, atoms, files, goes_on=goes_on))
        if given.restart:
            writers.append(lambda _: dynamics.save(given.restart))
        bar = files.enter_context(
            need("tqdm").tqdm(total=given.steps, unit="step", disable=None, smoothing=0.1)
        )
        instants = (
            follow_on_server(dynamics, settings, given.interval)
            if given.on_server
            else follow(dynamics, settings)
        )
        for n_done, instant in enumerate(instants):
            bar.update(instant.step - bar.n)
            if instant.step // dynamics.inner_steps % given.interval == 0:
                bar.set_postfix_str(f"{instant.temperature_k:.0f} K", refresh=False)
                kept.append(instant)
                for write in [] if goes_on and n_done == 0 else writers:
                    write(instant)


def _settings_of(given: argparse.Namespace) -> MDSettings:
    return MDSettings(
        forces=given.forces,
        inner_steps=given.inner_steps,
        ensemble=given.ensemble,
        thermostat=given.thermostat,
        n_steps=given.steps,
        time_step_fs=given.time_step,
        temperature_k=given.temperature,
        relaxation_fs=given.relaxation,
        pressure_bar=given.pressure,
        pressure_relaxation_fs=given.pressure_relaxation,
        compressibility_per_bar=given.compressibility,
        seed=given.seed,
    )


def _writers(
    given: argparse.Namespace, atoms: Any, files: ExitStack, *, goes_on: bool
) -> Iterator[Callable[[Instant], None]]:
    mode = "a" if goes_on else "w"
    if given.log:
        has_header = goes_on and given.log.exists() and given.log.stat().st_size > 0
        file = files.enter_context(given.log.open(mode, newline=""))
        yield LogWriter(file, has_header=has_header).write
    if given.trajectory:
        yield _trajectory_writer(given.trajectory, atoms, files, mode)


def _trajectory_writer(
    path: Path, atoms: Any, files: ExitStack, mode: str
) -> Callable[[Instant], None]:
    if path.suffix == ".traj":
        trajectory = files.enter_context(need("ase.io.trajectory").Trajectory(path, mode, atoms))
        return lambda _: trajectory.write()
    if path.suffix not in (".xyz", ".extxyz"):
        raise ValueError(f"{path}: expected a name that ends in .traj, .xyz or .extxyz")
    file = files.enter_context(path.open(mode))
    return lambda _: need("ase.io").write(file, atoms, format="extxyz")


def _tell(message: Warning | str, *_: Any, **__: Any) -> None:
    """Write a warning as the command writes what goes wrong: on one line."""
    sys.stderr.write(f"twinforce: warning: {message}\n")


def _conclude(kept: list[Instant], n_atoms: int, plot: Path | None) -> None:
    """Say how the run went, as far as it went, and plot it."""
    if not kept:
        return
    last = kept[-1]
    drift = conserved_drift(kept, n_atoms)
    text = (
        ""
        if drift is None
        else f"; conserved energy {drift.rate:+.3f} ± {drift.error:.3f} meV/atom/ps"
    )
    sys.stderr.write(
        f"{last.step} steps, {last.time_fs * 1e-3:g} ps; {last.temperature_k:.1f} K at the end"
        f"{text}\n"
    )
    if plot is not None:
        plot_runs({"run": kept}, n_atoms, plot)
