"""The throughput of many walkers of one service, over that of full batches in one process.

    python -m bench.measurements.walkers

16 walkers with 64 molecules of water each use the bundled model, compiled on both sides. The ideal
is an endless sequence of full batches of 16 systems in this process. Two services take turns with
it: one that may hold a batch for walkers that are about to return, as services do by default, and
one that never does. The walkers run in this process, on one gRPC stream each. The CPU time of each
process is recorded too: on a machine with other load, three processes get a larger share of the CPU
than one, and elapsed times mean little.
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

import httpx2
import numpy as np
import torch
from tqdm import trange

from bench.runner import record
from bench.runner.closed_loop import OUTPUTS, rate, walkers
from bench.runner.command_line import parser_of
from bench.runner.cpu import cpu_seconds
from bench.runner.processes import running_service
from bench.runner.systems import read_system, shaken
from bench.runner.timing import Timing
from twinforce import System
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.memory import keep_freed_memory
from twinforce_models.potentials.hybrid_net.compilation.compiling import compiled
from twinforce_models.prediction import predict_batch, split
from twinforce_service.settings import Settings

IDEAL, HOLDING, NEVER_HOLDING = "full batches", "service", "service that never holds"
# Histograms of the service whose means are recorded.
METRICS = ("twinforce_batch_systems", "twinforce_compute_seconds", "twinforce_batch_hold_seconds")


def full_batches(model: str, system: System, n_walkers: int) -> Callable[[], int]:
    """Return a function that evaluates one full batch in this process, as the engine does."""
    loaded = registry.load(model, device="cpu")
    potential = compiled(loaded.potential, Path(Settings().compile_cache), 1, wait=True)
    shake, names = shaken(system), list(range(1, n_walkers + 1))

    def evaluate() -> int:
        batch = Batch.from_systems(
            [shake() for _ in names], potential.cutoff, potential.dtype, potential.device,
            lists=loaded.lists, walkers=names,
        )  # fmt: skip
        return len(split(predict_batch(potential, batch, set(OUTPUTS)), batch))

    return evaluate


def rate_here(evaluate: Callable[[], int], seconds: float) -> float:
    """Return how many batches per second this thread evaluates."""
    begin, n_batches = time.perf_counter(), 0
    while time.perf_counter() < begin + seconds:
        evaluate()
        n_batches += 1
    return n_batches / (time.perf_counter() - begin)


async def measured(
    urls: dict[str, str], evaluate: Callable[[], int], system: System, options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Measure the ideal and both services in turn, every other round in reverse order.

    Returns:
        The rates of each, and the CPU time of an evaluation in each process, in ms.
    """
    spent: dict[str, dict[str, float]] = {name: {} for name in (IDEAL, *urls)}
    n_evaluations = dict.fromkeys(spent, 0.0)
    rates: dict[str, list[float]] = {name: [] for name in (IDEAL, *urls)}
    async with AsyncExitStack() as stack:
        steps = {
            name: await walkers(url, system, options.walkers, options.model, stack)
            for name, url in urls.items()
        }

        async def window(name: str, seconds: float) -> float:
            if name == IDEAL:
                n_systems = options.walkers
                return n_systems * rate_here(evaluate, seconds)
            return await rate(steps[name], seconds)

        for name in rates:
            await window(name, 2 * options.window)
        order = list(rates)
        for _ in trange(max(1, round(options.seconds / (3 * options.window))), desc="rounds"):
            for name in order:
                before, begin = cpu_seconds(), time.perf_counter()
                rates[name].append(await window(name, options.window))
                n_evaluations[name] += rates[name][-1] * (time.perf_counter() - begin)
                for role, seconds in cpu_seconds().items():
                    more = seconds - before.get(role, 0.0)
                    spent[name][role] = spent[name].get(role, 0.0) + more
            order.reverse()
    return rates, {
        name: {role: 1e3 * seconds / n_evaluations[name] for role, seconds in roles.items()}
        for name, roles in spent.items()
    }


async def batches(url: str) -> dict[str, float]:
    """Return the means of the histograms of a service about its batches."""
    text = await asyncio.to_thread(_read, f"{url}/metrics")
    means = {}
    for name in METRICS:
        total, count = (
            sum(float(line.split()[-1]) for line in text if line.startswith(f"{name}_{part}{{"))
            for part in ("sum", "count")
        )
        means[name] = total / max(count, 1.0)
    return means


def _read(url: str) -> list[str]:
    return httpx2.get(url).text.splitlines()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/walkers.json."""
    parser = parser_of("bench.measurements.walkers", __doc__)
    parser.add_argument("--model", default="water", help="name of the model")
    parser.add_argument("--walkers", type=int, default=16, help="number of walkers")
    parser.add_argument("--seconds", type=float, default=90.0, help="duration of all windows")
    parser.add_argument("--window", type=float, default=3.0, help="duration of a window, in s")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    system = read_system()
    evaluate = full_batches(options.model, system, options.walkers)
    flags = ("--n-threads=1", "--compile=on")
    with running_service(*flags) as (rest, url), running_service(*flags, "--max-hold=0") as others:
        urls = {HOLDING: url, NEVER_HOLDING: others[1]}
        rates, cpu = asyncio.run(measured(urls, evaluate, system, options))
        means_of_batches = {
            name: asyncio.run(batches(each))
            for name, each in ((HOLDING, rest), (NEVER_HOLDING, others[0]))
        }
    figures = {
        "over full batches": ratio(rates, HOLDING, IDEAL),
        "over full batches, never holding": ratio(rates, NEVER_HOLDING, IDEAL),
        "holding over never holding": ratio(rates, HOLDING, NEVER_HOLDING),
    }
    engine = {name: cpu[name]["engine"] for name in (HOLDING, NEVER_HOLDING)}
    for name, values in rates.items():
        print(f"{name:34}{Timing.of(values)} evaluations/s")
    for name, timing in figures.items():
        print(f"{name:34}{timing.median:8.3f}  ({timing.low:.3f} - {timing.high:.3f})")
    for name, each in engine.items():
        here = cpu[IDEAL]["client"]
        print(f"{name}: {each:.2f} ms of CPU in the engine, x {each / here:.3f} of {IDEAL}")
    for name, means in means_of_batches.items():
        print(f"{name}: means of a batch: {means}")
    record.write(
        options.out,
        "walkers",
        figures,
        model=options.model,
        n_walkers=options.walkers,
        n_atoms=len(system),
        evaluations_per_s={name: asdict(Timing.of(each)) for name, each in rates.items()},
        batches=means_of_batches,
        cpu_ms_per_evaluation=cpu,
    )


def ratio(rates: dict[str, list[float]], name: str, base: str) -> Timing:
    """Return the rate of `name` over that of `base`, round by round."""
    return Timing.of(np.divide(rates[name], rates[base]).tolist())


if __name__ == "__main__":
    main()
