"""Many walkers through one service, over an ideal: full batches in one process, one after another.

    python -m bench.walkers

16 walkers with 64 molecules of water each and the bundled model, compiled on both sides. The ideal
asks nobody and waits for nobody: its 16 systems are always there. Two services take turns with it:
one that may wait for walkers about to return, as services do, and one that never does. The walkers
live in this process, on one gRPC stream each. What each process spends of the CPU is told too: on a
machine with other things to do, three processes get more of it than one, and times mean little.
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
from demo.serving import running_service
from tqdm import trange

from bench import record
from bench.step import cpu_seconds
from bench.systems import read_system, shaken
from bench.timing import Timing
from bench.walking import OUTPUTS, rate, walkers
from twinforce import System
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.memory import keep_freed_memory
from twinforce_models.potentials.hybrid_net.compilation.compiling import compiled
from twinforce_models.prediction import predict_batch, split
from twinforce_service.settings import Settings

IDEAL, HOLDING, AT_ONCE = "full batches", "service", "service that never holds"
# What is asked of the metrics, each the sum of a histogram.
METRICS = ("twinforce_batch_systems", "twinforce_compute_seconds", "twinforce_batch_hold_seconds")


def full_batches(model: str, system: System, n_walkers: int) -> Callable[[], int]:
    """Return a function that evaluates one full batch here, as the engine does."""
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
    """Return how many batches a second it makes, with this thread to itself."""
    begin, n_batches = time.perf_counter(), 0
    while time.perf_counter() < begin + seconds:
        evaluate()
        n_batches += 1
    return n_batches / (time.perf_counter() - begin)


async def measured(
    urls: dict[str, str], evaluate: Callable[[], int], system: System, options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Measure each, window by window in turn, every other round backwards.

    Returns:
        The rates of each; and what each process spent of the CPU, in ms for an evaluation.
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
    """Return what a service tells of its batches: means of what its metrics count."""
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
    parser = argparse.ArgumentParser(prog="python -m bench.walkers", description=main.__doc__)
    parser.add_argument("--model", default="water")
    parser.add_argument("--walkers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=90.0, help="of windows")
    parser.add_argument("--window", type=float, default=3.0, help="s")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    system = read_system()
    evaluate = full_batches(options.model, system, options.walkers)
    flags = ("--n-threads=1", "--compile=on")
    with running_service(*flags) as (rest, url), running_service(*flags, "--max-hold=0") as others:
        urls = {HOLDING: url, AT_ONCE: others[1]}
        rates, cpu = asyncio.run(measured(urls, evaluate, system, options))
        told = {
            name: asyncio.run(batches(each))
            for name, each in ((HOLDING, rest), (AT_ONCE, others[0]))
        }
    figures = {
        "over full batches": ratio(rates, HOLDING, IDEAL),
        "over full batches, never holding": ratio(rates, AT_ONCE, IDEAL),
        "holding over never holding": ratio(rates, HOLDING, AT_ONCE),
    }
    engine = {name: cpu[name]["engine"] for name in (HOLDING, AT_ONCE)}
    for name, values in rates.items():
        print(f"{name:34}{Timing.of(values)} evaluations/s")
    for name, timing in figures.items():
        print(f"{name:34}{timing.median:8.3f}  ({timing.low:.3f} - {timing.high:.3f})")
    for name, each in engine.items():
        here = cpu[IDEAL]["client"]
        print(f"{name}: {each:.2f} ms of CPU in the engine, x {each / here:.3f} of {IDEAL}")
    for name, means in told.items():
        print(f"{name}: means of a batch: {means}")
    record.write(
        options.out,
        "walkers",
        figures,
        model=options.model,
        n_walkers=options.walkers,
        n_atoms=len(system),
        evaluations_per_s={name: asdict(Timing.of(each)) for name, each in rates.items()},
        batches=told,
        cpu_ms_per_evaluation=cpu,
    )


def ratio(rates: dict[str, list[float]], name: str, base: str) -> Timing:
    """Return how many times the rate of `base` it has, round by round."""
    return Timing.of(np.divide(rates[name], rates[base]).tolist())


if __name__ == "__main__":
    main()
