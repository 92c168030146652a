"""Remote molecular dynamics of liquid water with conservative, direct and hybrid forces.

Starts a service of its own on free ports, drives it from the same start with forces of either kind
and with multiple time stepping, which uses both, without a thermostat, and says what that costs and
how well the energy is kept. Prints a table, saves a plot, and stops everything, also when
interrupted.
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
# A run ends early when it takes this much longer than its trial said: the machine has other work.
MAX_DELAY = 1.2


@dataclass(frozen=True, slots=True)
class Run:
    """What one kind of forces did, and what the service needed to evaluate them, in s."""

    instants: list[Instant]
    wall_s: float
    compute_s: float

    @property
    def steps_per_second(self) -> float:
        """Inner steps, network included."""
        return self.instants[-1].step / self.wall_s


def main() -> int:
    """Run the demonstration; return its exit status."""
    given = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    warnings.simplefilter("ignore", DirectForcesWarning)  # showing that is the point
    warnings.simplefilter("ignore", ForceDisagreementWarning)
    # The first compilation takes minutes: in its midst, ways to step could not be compared.
    served = ["--compile=off"]
    if given.model != "water":
        served += ["--no-water", f"--model=demo={given.model}"]
    try:
        with running_service(*served) as (_, url), Client(url) as client:
            demonstrate(client, given)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the service has been stopped\n")
        return 130
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="water", help="the bundled water, or a spec: toy:NAME")
    parser.add_argument("--start", type=Path, default=HERE / "water64.xyz", help="atoms to move")
    parser.add_argument("--seconds", type=float, default=150.0, help="for all runs together")
    parser.add_argument("--max-steps", type=int, default=4000, help="of each run")
    parser.add_argument("--plot", type=Path, default=HERE / "out" / "water_md.png", help="to write")
    return parser.parse_args()


def demonstrate(client: Client, given: argparse.Namespace) -> None:
    """Run all kinds of forces for as long as there is time, and compare them."""
    start = starting_atoms(given.start)
    trials = {kind: follow(client, start, kind, N_TRIAL_STEPS, is_shown=False) for kind in KINDS}
    n_steps = affordable_steps(trials, given.seconds, given.max_steps)
    length = f"{n_steps * TIME_STEP_FS * 1e-3:g} ps"
    print(f"\n{len(start)} atoms, NVE, {n_steps} steps of {TIME_STEP_FS} fs ({length}) each\n")
    runs = {}
    for kind in KINDS:
        max_seconds = MAX_DELAY * n_steps / trials[kind].steps_per_second
        runs[kind] = follow(client, start, kind, n_steps, max_seconds)
    print_table(runs, len(start))
    given.plot.parent.mkdir(parents=True, exist_ok=True)
    lines = {title(kind): run.instants for kind, run in runs.items()}
    plot_runs(lines, len(start), given.plot)
    print(f"\nplot: {given.plot}")


def starting_atoms(path: Path) -> Atoms:
    """Read the start; draw velocities where it has none."""
    atoms = ase.io.read(path)
    if not atoms.has("momenta"):
        draw_velocities(atoms, TEMPERATURE_K, np.random.default_rng(0))
    return atoms


def affordable_steps(trials: dict[ForceChoice, Run], seconds: float, max_steps: int) -> int:
    """Return how many steps with each kind fit into this time."""
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
    """Run from the start with one kind of forces."""
    atoms = start.copy()
    settings = MDSettings(
        forces=kind, inner_steps=INNER_STEPS, n_steps=n_steps, time_step_fs=TIME_STEP_FS
    )
    instants, compute_s = [], []
    bar = tqdm(total=n_steps, desc=title(kind), disable=None if is_shown else True)
    with TwinForceCalculator(client) as atoms.calc, bar:
        steps = molecular_dynamics(atoms, settings)
        instants.append(next(steps))  # the first evaluation of a size may cost more
        begin = time.perf_counter()
        for instant in steps:
            instants.append(instant)
            compute_s.append(atoms.calc.prediction.timings.compute_s)
            bar.update(instant.step - bar.n)
            if time.perf_counter() - begin > max_seconds:
                break
        return Run(instants, time.perf_counter() - begin, median(compute_s))


def print_table(runs: dict[ForceChoice, Run], n_atoms: int) -> None:
    """Print what each kind of forces cost and how it kept energy and temperature."""
    row = "{:<14}{:>7}{:>9}{:>16}{:>20}{:>14}"
    titles = ("forces", "steps", "steps/s", "evaluation ms", "drift meV/atom/ps", "K at the end")
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
    print(f"\nF = {cost:.2f}: a conservative evaluation costs that many direct ones")
    for name, run in (("a direct step", direct), ("a step of " + title("hybrid"), hybrid)):
        gain = run.steps_per_second / conservative.steps_per_second
        print(f"    with the network, {name} is {gain:.2f} times as fast as a conservative one")
    print(f"    (for {title('hybrid')}, this F allows {expected:.2f})")


def title(kind: ForceChoice) -> str:
    """Return what a run is called: MTS-8 for hybrid forces."""
    return f"MTS-{INNER_STEPS}" if kind == "hybrid" else kind


def as_text(drift: Drift | None) -> str:
    """Return the drift and its standard error."""
    return "-" if drift is None else f"{drift.rate:+.2f} ± {drift.error:.2f}"


if __name__ == "__main__":
    sys.exit(main())
