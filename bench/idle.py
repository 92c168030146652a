"""What a thousand open streams that ask nothing cost those that do.

    python -m bench.idle

Eight busy walkers of 64 atoms and a toy model that costs next to nothing: what they get together
with the idle streams open, beside what they get without, some windows of each in turn. The idle
ones are held by a process of its own, each over its own connection. The service needs as many open
files (`ulimit -n`).
"""

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
from demo.serving import running_service
from tqdm import trange

from bench import record
from bench.children import Child, running
from bench.overhead import TOY
from bench.systems import gas
from bench.timing import Timing
from bench.walking import rate, walkers
from twinforce_models.memory import keep_freed_memory

# Windows of so many s, how many before the idle streams are opened or closed, and how long the
# service has after that, in s.
WINDOW = 1.5
N_WINDOWS = 3
SETTLING = 0.5
BUSY, CROWDED = "without idle streams", "with idle streams"


async def measured(url: str, idle: Child, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the rates of the busy walkers, without idle streams and with them."""
    rates: dict[str, list[float]] = {BUSY: [], CROWDED: []}
    n_rounds = max(1, round(options.seconds / (2 * N_WINDOWS * WINDOW)))
    async with AsyncExitStack() as stack:
        steps = await walkers(url, gas(options.atoms), options.walkers, "toy", stack)
        await rate(steps, WINDOW)
        for _ in trange(n_rounds, desc="rounds"):
            for name in (BUSY, CROWDED):
                await asyncio.to_thread(idle.ask, "open" if name == CROWDED else "close")
                await asyncio.sleep(SETTLING)
                rates[name] += [await rate(steps, WINDOW) for _ in range(N_WINDOWS)]
    return rates


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/idle.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=main.__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--walkers", type=int, default=8)
    parser.add_argument("--atoms", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=48.0, help="of windows")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    with running_service("--n-threads=1", "--no-water", f"--model=toy={TOY}") as (_, url):
        address = url.removeprefix("grpc://")
        with running("bench.idle_streams", address, str(options.streams), grace=20.0) as idle:
            rates = asyncio.run(measured(url, idle, options))
    slower = np.divide(rates[BUSY], rates[CROWDED]).tolist()
    figures = {"slow-down": Timing.of(slower)}
    found = {name: Timing.of(values) for name, values in rates.items()}
    for name, timing in (found | figures).items():
        print(f"{name:20}{timing}")
    record.write(
        options.out,
        "idle",
        figures,
        n_streams=options.streams,
        n_walkers=options.walkers,
        evaluations_per_s={name: asdict(timing) for name, timing in found.items()},
    )


if __name__ == "__main__":
    main()
