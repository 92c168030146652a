"""Many walkers with small systems, beside a Ray Serve deployment of the same model.

    python -m bench.crowd

32 walkers of 8 atoms, a toy model that costs next to nothing: how many evaluations a second they
get together, with the walkers on the same machine. Then, if Ray is there (`pip install
"twinforce[peers]"`, or `--ray-python` for one of another environment), the same walkers with Ray
Serve, and ours once more: each has the machine to itself, as the many processes of Ray take much
of it even when nobody calls. The deployment batches with `@serve.batch` up to 32 systems, in one
replica, and its walkers call its handle, which is faster than its HTTP; of two settings, not to
wait for a batch and to wait as long as it does by default, the faster one counts.
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
from demo.serving import running_service
from tqdm import trange

from bench import record
from bench.children import running
from bench.overhead import TOY
from bench.systems import gas, shaken
from bench.timing import Timing, rounds_in_turn
from bench.walking import OUTPUTS, rate, walkers
from twinforce_models import registry
from twinforce_models.memory import keep_freed_memory
from twinforce_models.prediction import predict

# s.
WINDOW = 1.0
OURS = "TwinForce"


def without_ray(python: str) -> str | None:
    """Return why the deployment cannot run, or None if it can."""
    found = subprocess.run(
        [python, "-c", "import ray, ray.serve, torch; print(ray.__version__)"],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode == 0:
        return None
    reason = (found.stderr.strip().splitlines() or ["no word why"])[-1]
    return f'{python} cannot run Ray Serve ({reason}); pip install "twinforce[peers]"'


async def ours(
    url: str, options: argparse.Namespace, n_walkers: int, n_windows: int
) -> list[float]:
    """Return the rates of ours, after a window that warms up."""
    async with AsyncExitStack() as stack:
        steps = await walkers(url, gas(options.atoms), n_walkers, "toy", stack)
        await rate(steps, WINDOW)
        return [await rate(steps, WINDOW) for _ in trange(n_windows, desc=OURS)]


def by_walkers(url: str, options: argparse.Namespace, n_windows: int) -> dict[str, object]:
    """Return what fewer walkers, and twice as many, get together."""
    counts = sorted({2**power for power in range(7)} | {options.walkers})
    return {
        str(n): asdict(Timing.of(asyncio.run(ours(url, options, n, n_windows)))) for n in counts
    }


def full_batches(n_walkers: int, n_atoms: int) -> Timing:
    """Return how many evaluations a second full batches make in this process, with nothing else."""
    torch.set_num_threads(1)
    potential, shake = registry.load(TOY).potential, shaken(gas(n_atoms))

    def evaluate() -> object:
        return predict(potential, [shake() for _ in range(n_walkers)], set(OUTPUTS))

    taken = rounds_in_turn({"batch": evaluate}, 2.0).taken["batch"]
    return Timing.of([1e3 * n_walkers / ms for ms in taken])


def theirs(options: argparse.Namespace, n_rounds: int) -> dict[str, list[float]]:
    """Return the rates of the deployment with each setting, in turn."""
    counts = (str(options.walkers), str(options.atoms))
    with running("bench.ray_peer", *counts, python=options.ray_python, grace=20.0) as peer:
        rates: dict[str, list[float]] = {name: [] for name in peer.read().split(",")}
        for index in trange(n_rounds + 1, desc="Ray Serve"):
            for name, found in rates.items():
                value = float(peer.ask(f"{name} {WINDOW}"))
                if index:  # the first round warms up
                    found.append(value)
        return rates


def compared(here: Sequence[float], there: Mapping[str, Sequence[float]]) -> Timing:
    """Return how many times the rate of the deployment ours is: every window with every one.

    Args:
        here: Our rates.
        there: Those of the deployment, by setting; the best one counts.
    """
    best = max(there.values(), key=np.median)
    return Timing.of(np.divide.outer(here, best).ravel().tolist())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/crowd.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.crowd", description=main.__doc__)
    parser.add_argument("--walkers", type=int, default=32)
    parser.add_argument("--atoms", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--ray-python", default=sys.executable, help="a Python that has Ray")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    n_windows = max(1, round(options.seconds / (4.0 * WINDOW)))
    rates: dict[str, list[float]] = {}
    figures: dict[str, Timing] = {}
    with running_service("--n-threads=1", "--no-water", f"--model=toy={TOY}") as (_, url):
        rates[OURS] = asyncio.run(ours(url, options, options.walkers, n_windows))
        scaling = by_walkers(url, options, max(1, n_windows // 5))
        reason = without_ray(options.ray_python)
        if reason is None:
            peers = theirs(options, n_windows)
            rates[OURS] += asyncio.run(ours(url, options, options.walkers, n_windows))
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
