"""The cost of a thousand idle streams for the walkers that share the service with them.

    python -m bench.measurements.idle

Eight busy walkers of 64 atoms use a toy model that costs next to nothing. Their rate with the idle
streams open is compared with their rate without them, some windows of each in turn. A separate
process holds the idle streams, each over a separate connection. The service needs as many open
files (`ulimit -n`) as there are streams.
"""

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import trange

from bench.measurements.overhead import TOY
from bench.runner import record
from bench.runner.closed_loop import rate, walkers
from bench.runner.command_line import parser_of
from bench.runner.processes import LineProcess, running, running_service
from bench.runner.systems import gas
from bench.runner.timing import Timing
from twinforce_models.memory import keep_freed_memory

# Duration of one measured rate, in s.
WINDOW = 1.5
# Number of windows before the idle streams are opened or closed.
N_WINDOWS = 3
# Pause after the idle streams were opened or closed, in s.
SETTLING = 0.5
BUSY, CROWDED = "without idle streams", "with idle streams"


async def measured(
    url: str, idle: LineProcess, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Return the rates of the busy walkers, without and with idle streams."""
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
    parser = parser_of("bench.measurements.idle", __doc__)
    parser.add_argument("--streams", type=int, default=1000, help="number of idle streams")
    parser.add_argument("--walkers", type=int, default=8, help="number of busy walkers")
    parser.add_argument("--atoms", type=int, default=64, help="number of atoms of each system")
    parser.add_argument("--seconds", type=float, default=48.0, help="duration of all windows")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    with running_service("--n-threads=1", "--no-water", f"--model=toy={TOY}") as (_, url):
        address, streams = url.removeprefix("grpc://"), str(options.streams)
        with running("bench.peers.idle_streams", address, streams, grace=20.0) as idle:
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
