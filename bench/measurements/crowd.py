"""The throughput of many walkers with small systems, compared with a Ray Serve deployment.

    python -m bench.measurements.crowd

32 walkers of 8 atoms run on the same machine as the service, whose toy model costs next to nothing.
If Ray is installed (`pip install "twinforce[peers]"`, or `--ray-python` for another environment),
the same walkers then call Ray Serve, and after that TwinForce once more. Each side has the machine
to itself, because the processes of Ray use much of it even without calls. The deployment batches up
to 32 systems with `@serve.batch` in one replica, and its walkers call its handle, which is faster
than its HTTP. The faster of two settings counts: no wait for a batch, and the default wait.
"""

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm import trange

from bench.measurements.overhead import TOY
from bench.runner import record
from bench.runner.closed_loop import OUTPUTS, rate, walkers
from bench.runner.command_line import parser_of
from bench.runner.processes import running, running_service
from bench.runner.systems import gas, shaken
from bench.runner.timing import Timing, rounds_in_turn
from twinforce_models import registry
from twinforce_models.memory import keep_freed_memory
from twinforce_models.prediction import predict

# Duration of one measured rate, in s.
WINDOW = 1.0
OURS = "TwinForce"


def reason_without_ray(python: str) -> str | None:
    """Return why the deployment cannot run, or None if it can."""
    found = subprocess.run(
        [python, "-c", "import ray, ray.serve, torch; print(ray.__version__)"],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode == 0:
        return None
    reason = (found.stderr.strip().splitlines() or ["no error message"])[-1]
    return f'{python} cannot run Ray Serve ({reason}); pip install "twinforce[peers]"'


async def service_rates(
    url: str, options: argparse.Namespace, n_walkers: int, n_windows: int
) -> list[float]:
    """Return the rates of the service, after a window for the warm-up."""
    async with AsyncExitStack() as stack:
        steps = await walkers(url, gas(options.atoms), n_walkers, "toy", stack)
        await rate(steps, WINDOW)
        return [await rate(steps, WINDOW) for _ in trange(n_windows, desc=OURS)]


def by_walkers(url: str, options: argparse.Namespace, n_windows: int) -> dict[str, object]:
    """Return the rates of 1 to 64 walkers."""
    counts = sorted({2**power for power in range(7)} | {options.walkers})
    rates = {n: asyncio.run(service_rates(url, options, n, n_windows)) for n in counts}
    return {str(n): asdict(Timing.of(each)) for n, each in rates.items()}


def full_batches(n_walkers: int, n_atoms: int) -> Timing:
    """Return the evaluations per second of full batches in this process, without a service."""
    torch.set_num_threads(1)
    potential, shake = registry.load(TOY).potential, shaken(gas(n_atoms))

    def evaluate() -> object:
        return predict(potential, [shake() for _ in range(n_walkers)], set(OUTPUTS))

    taken = rounds_in_turn({"batch": evaluate}, 2.0).taken["batch"]
    return Timing.of([1e3 * n_walkers / ms for ms in taken])


def ray_rates(options: argparse.Namespace, n_rounds: int) -> dict[str, list[float]]:
    """Return the rates of the deployment with each setting, measured in turn."""
    counts = (str(options.walkers), str(options.atoms))
    python = options.ray_python
    with running("bench.peers.ray_serve", *counts, python=python, grace=20.0) as peer:
        rates: dict[str, list[float]] = {name: [] for name in peer.read().split(",")}
        for index in trange(n_rounds + 1, desc="Ray Serve"):
            for name, found in rates.items():
                value = float(peer.ask(f"{name} {WINDOW}"))
                if index:  # the first round warms up
                    found.append(value)
        return rates


def compared(here: Sequence[float], there: Mapping[str, Sequence[float]]) -> Timing:
    """Return the rate of the service over that of the deployment, each window with each window.

    Args:
        here: Rates of the service.
        there: Rates of the deployment, by setting; the best setting counts.
    """
    best = max(there.values(), key=np.median)
    return Timing.of(np.divide.outer(here, best).ravel().tolist())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/crowd.json."""
    parser = parser_of("bench.measurements.crowd", __doc__)
    parser.add_argument("--walkers", type=int, default=32, help="number of walkers")
    parser.add_argument("--atoms", type=int, default=8, help="number of atoms of each system")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of all windows")
    parser.add_argument("--ray-python", default=sys.executable, help="a Python that has Ray")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    n_windows = max(1, round(options.seconds / (4.0 * WINDOW)))
    rates: dict[str, list[float]] = {}
    figures: dict[str, Timing] = {}
    with running_service("--n-threads=1", "--no-water", f"--model=toy={TOY}") as (_, url):
        rates[OURS] = asyncio.run(service_rates(url, options, options.walkers, n_windows))
        scaling = by_walkers(url, options, max(1, n_windows // 5))
        reason = reason_without_ray(options.ray_python)
        if reason is None:
            peers = ray_rates(options, n_windows)
            rates[OURS] += asyncio.run(service_rates(url, options, options.walkers, n_windows))
            figures["over Ray Serve"] = compared(rates[OURS], peers)
            rates |= peers
        else:
            print(f"not compared: {reason}", file=sys.stderr)
    figures["evaluations/s"] = Timing.of(rates[OURS])
    figures["full batches in process, evaluations/s"] = full_batches(options.walkers, options.atoms)
    for name, values in rates.items():
        print(f"{name:26}{Timing.of(values)} evaluations/s")
    details = {
        "n_walkers": options.walkers,
        "n_atoms": options.atoms,
        "evaluations_per_s": {name: asdict(Timing.of(each)) for name, each in rates.items()},
        "by_walkers": scaling,
        "not_compared": reason,
    }
    record.write(options.out, "crowd", figures, **details)


if __name__ == "__main__":
    main()
