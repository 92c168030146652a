"""`twinforce md`: molecular dynamics on remote forces."""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

from twinforce.cli.files import need, read_atoms
from twinforce.md import (
    Ensemble,
    Instant,
    LogWriter,
    MDSettings,
    energy_drift,
    molecular_dynamics,
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
    add("--forces", choices=("conservative", "direct"), default="conservative", help="which kind")
    add("--ensemble", choices=get_args(Ensemble), default="nve", help="nve, or the thermostat")
    add("--steps", type=_positive(int), default=_DEFAULTS.n_steps, help="how many")
    add("--time-step", type=_positive(float), default=_DEFAULTS.time_step_fs, help="in fs")
    add("--temperature", type=_positive(float), default=_DEFAULTS.temperature_k, help="in K")
    add(
        "--relaxation",
        type=_positive(float),
        default=_DEFAULTS.relaxation_fs,
        help="time of the thermostat, in fs",
    )
    add("--seed", type=int, default=_DEFAULTS.seed, help="of random numbers")
    add("--new-velocities", action="store_true", help="draw them even if the file has some")
    add("--interval", type=_positive(int), default=10, help="steps between what is written")
    add("--trajectory", type=Path, metavar="FILE", help="to write: .traj, .xyz or .extxyz")
    add("--log", type=Path, metavar="FILE", help="to write: comma-separated values")
    add("--plot", type=Path, metavar="FILE", help="to write: an image of energy and temperature")
    parser.set_defaults(command=_run)


def _run(given: argparse.Namespace) -> None:
    (atoms,) = read_atoms(given.file, given.index)[-1:]
    if given.new_velocities:
        atoms.set_array("momenta", None)
    if given.plot:
        need("matplotlib.figure")
    if given.forces == "direct" and given.ensemble == "nve":
        sys.stderr.write(
            "twinforce: warning: direct forces are not the gradient of an energy: without a "
            "thermostat the system will heat up or cool down\n"
        )
    calculator_of = need("twinforce.ase").TwinForceCalculator
    kept: list[Instant] = []
    with calculator_of(
        given.url, model=given.model, force_kind=given.forces, timeout=given.timeout
    ) as atoms.calc:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", need("twinforce.ase").DirectForcesWarning)
                _follow(atoms, given, kept)
        finally:
            _conclude(kept, len(atoms), given.plot)


def _follow(atoms: Any, given: argparse.Namespace, kept: list[Instant]) -> None:
    """Run to the end; write and keep every so many steps."""
    settings = MDSettings(
        ensemble=given.ensemble,
        n_steps=given.steps,
        time_step_fs=given.time_step,
        temperature_k=given.temperature,
        relaxation_fs=given.relaxation,
        seed=given.seed,
    )
    with ExitStack() as files:
        writers = list(_writers(given, atoms, files))
        bar = files.enter_context(
            need("tqdm").tqdm(total=given.steps, unit="step", disable=None, smoothing=0.1)
        )
        for instant in molecular_dynamics(atoms, settings):
            bar.update(instant.step - bar.n)
            if instant.step % given.interval == 0:
                bar.set_postfix_str(f"{instant.temperature_k:.0f} K", refresh=False)
                kept.append(instant)
                for write in writers:
                    write(instant)


def _writers(
    given: argparse.Namespace, atoms: Any, files: ExitStack
) -> Iterator[Callable[[Instant], None]]:
    if given.log:
        yield LogWriter(files.enter_context(given.log.open("w", newline=""))).write
    if given.trajectory:
        yield _trajectory_writer(given.trajectory, atoms, files)


def _trajectory_writer(path: Path, atoms: Any, files: ExitStack) -> Callable[[Instant], None]:
    if path.suffix == ".traj":
        trajectory = files.enter_context(need("ase.io.trajectory").Trajectory(path, "w", atoms))
        return lambda _: trajectory.write()
    if path.suffix not in (".xyz", ".extxyz"):
        raise ValueError(f"{path}: expected a name that ends in .traj, .xyz or .extxyz")
    file = files.enter_context(path.open("w"))
    return lambda _: need("ase.io").write(file, atoms, format="extxyz")


def _conclude(kept: list[Instant], n_atoms: int, plot: Path | None) -> None:
    """Say how the run went, as far as it went, and plot it."""
    if not kept:
        return
    last = kept[-1]
    drift = energy_drift(kept, n_atoms)
    text = "" if drift is None else f"; drift {drift.rate:+.3f} ± {drift.error:.3f} meV/atom/ps"
    sys.stderr.write(
        f"{last.step} steps, {last.time_fs * 1e-3:g} ps; {last.temperature_k:.1f} K at the end"
        f"{text}\n"
    )
    if plot is not None:
        plot_runs({"run": kept}, n_atoms, plot)


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def convert(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
        return value

    convert.__name__ = kind.__name__
    return convert
