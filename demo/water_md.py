"""Remote molecular dynamics of liquid water with conservative, direct and hybrid forces.

The demo starts a service on free ports and runs the same system three times without a thermostat:
with conservative forces, with direct forces, and with multiple time stepping, which uses both. It
prints what each run costs and how well it conserves the energy, saves a plot, and stops the
service, even when it is interrupted.
"""

import argparse
import math
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import ase.io
import numpy as np
from ase import Atoms
from serving import running_service
from tqdm import tqdm

from twinforce import Client
from twinforce.ase import DirectForcesWarning, ForceDisagreementWarning, TwinForceCalculator
from twinforce.md import (
    Drift,
    ForceChoice,
    Instant,
    MDSettings,
    draw_velocities,
    energy_drift,
    molecular_dynamics,
    plot_runs,
)

HERE = Path(__file__).parent
KINDS: tuple[ForceChoice, ...] = ("conservative", "direct", "hybrid")
INNER_STEPS = 8
TIME_STEP_FS = 0.5
TEMPERATURE_K = 300.0
N_TRIAL_STEPS = 24
# On a busy machine, a run ends early once it has taken this many times its estimated duration.
MAX_DELAY = 1.2


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run and its timings.

    Attributes:
        instants: The recorded states, one per outer step.
        wall_s: Duration of the run, in s.
        compute_s: Median time that the service needed for one evaluation, in s.
    """

    instants: list[Instant]
    wall_s: float
    compute_s: float

    @property
    def steps_per_second(self) -> float:
        """Inner steps per second, including the network."""
        return self.instants[-1].step / self.wall_s


def main() -> int:
    """Run the demo and return its exit status."""
    given = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # The demo shows on purpose what these warn about.
    warnings.simplefilter("ignore", DirectForcesWarning)
    warnings.simplefilter("ignore", ForceDisagreementWarning)
    # The first compilation takes minutes and would disturb the timings.
    served = ["--compile=off"]
    if given.model != "water":
        served += ["--no-water", f"--model=demo={given.model}"]
    print(f"Starting a service with the model {given.model!r} on free ports:", flush=True)
    try:
        with running_service(*served) as (_, url), Client(url) as client:
            demonstrate(client, given)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the service has been stopped\n")
        return 130
    return 0


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default="water", help="model to serve: a bundled one, or a spec like toy:NAME")
    add("--start", type=Path, default=HERE / "water64.xyz", help="file with the initial system")
    add("--seconds", type=float, default=150.0, help="approximate duration of all runs together")
    add("--max-steps", type=int, default=4000, help="maximum number of time steps per run")
    add("--plot", type=Path, default=HERE / "out" / "water_md.png", help="image file to write")
    return parser.parse_args()


def demonstrate(client: Client, given: argparse.Namespace) -> None:
    """Run the system with each kind of forces for as long as time permits, and compare the runs."""
    start = starting_atoms(given.start)
    print(f"\nTiming {N_TRIAL_STEPS} steps with each kind of forces ...", flush=True)
    trials = {kind: follow(client, start, kind, N_TRIAL_STEPS, is_shown=False) for kind in KINDS}
    n_steps = affordable_steps(trials, given.seconds, given.max_steps)
    length = f"{n_steps * TIME_STEP_FS * 1e-3:g} ps"
    print(
        f"Running {len(start)} atoms in NVE (no thermostat), "
        f"{n_steps} steps of {TIME_STEP_FS} fs ({length}) per run:",
        flush=True,
    )
    runs = {}
    for kind in KINDS:
        max_seconds = MAX_DELAY * n_steps / trials[kind].steps_per_second
        runs[kind] = follow(client, start, kind, n_steps, max_seconds)
    print()
    print_table(runs, len(start))
    given.plot.parent.mkdir(parents=True, exist_ok=True)
    lines = {title(kind): run.instants for kind, run in runs.items()}
    plot_runs(lines, len(start), given.plot)
    plot, here = given.plot.resolve(), Path.cwd()
    shown = plot.relative_to(here) if plot.is_relative_to(here) else plot
    print(f"\nPlot of energy and temperature: {shown}")


def starting_atoms(path: Path) -> Atoms:
    """Read the initial system, and draw velocities if the file has none."""
    atoms = ase.io.read(path)
    if not atoms.has("momenta"):
        draw_velocities(atoms, TEMPERATURE_K, np.random.default_rng(0))
    return atoms


def affordable_steps(trials: dict[ForceChoice, Run], seconds: float, max_steps: int) -> int:
    """Return the number of steps per run for which all runs together take this many seconds."""
    all_kinds = sum(1.0 / trial.steps_per_second for trial in trials.values())
    return max(N_TRIAL_STEPS, min(max_steps, int(seconds / all_kinds)))


def follow(
    client: Client,
    start: Atoms,
    kind: ForceChoice,
    n_steps: int,
    max_seconds: float = math.inf,
    *,
    is_shown: bool = True,
) -> Run:
    """Run the system from its initial state with one kind of forces."""
    atoms = start.copy()
    settings = MDSettings(
        forces=kind, inner_steps=INNER_STEPS, n_steps=n_steps, time_step_fs=TIME_STEP_FS
    )
    instants, compute_s = [], []
    bar = tqdm(total=n_steps, desc=title(kind), disable=None if is_shown else True)
    with TwinForceCalculator(client) as atoms.calc, bar:
        steps = molecular_dynamics(atoms, settings)
        instants.append(next(steps))  # not timed: the first evaluation can take longer
        begin = time.perf_counter()
        for instant in steps:
            instants.append(instant)
            compute_s.append(atoms.calc.prediction.timings.compute_s)
            bar.update(instant.step - bar.n)
            if time.perf_counter() - begin > max_seconds:
                break
        return Run(instants, time.perf_counter() - begin, median(compute_s))


def print_table(runs: dict[ForceChoice, Run], n_atoms: int) -> None:
    """Print the cost of each kind of forces, the energy drift, and the final temperature."""
    row = "{:<14}{:>7}{:>9}{:>16}{:>20}{:>14}"
    titles = ("forces", "steps", "steps/s", "evaluation ms", "drift meV/atom/ps", "final K")
    print(row.format(*titles))
    for kind, run in runs.items():
        tail = run.instants[-max(len(run.instants) // 5, 1) :]
        print(
            row.format(
                title(kind),
                run.instants[-1].step,
                f"{run.steps_per_second:.1f}",
                f"{run.compute_s * 1e3:.1f}",
                as_text(energy_drift(run.instants, n_atoms)),
                f"{mean(each.temperature_k for each in tail):.0f}",
            )
        )
    conservative, direct, hybrid = (runs[kind] for kind in KINDS)
    cost = conservative.compute_s / direct.compute_s
    expected = cost / (1.0 + (cost - 1.0) / INNER_STEPS)
    print(f"\nF = {cost:.2f}: one conservative evaluation takes as long as {cost:.2f} direct ones.")
    print("Speed of a time step, including the network, compared with a conservative one:")
    for name, run in (("direct", direct), (title("hybrid"), hybrid)):
        gain = run.steps_per_second / conservative.steps_per_second
        bound = f" (F allows {expected:.2f})" if run is hybrid else ""
        print(f"    {name}: {gain:.2f} times as fast{bound}")


def title(kind: ForceChoice) -> str:
    """Return the name of a run: its kind of forces, or MTS-8 for hybrid forces."""
    return f"MTS-{INNER_STEPS}" if kind == "hybrid" else kind


def as_text(drift: Drift | None) -> str:
    """Return the drift and its standard error as text."""
    return "-" if drift is None else f"{drift.rate:+.2f} ± {drift.error:.2f}"


if __name__ == "__main__":
    sys.exit(main())
