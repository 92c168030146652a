"""What an evaluation costs in this process: plain, compiled, and with a neighbor list kept.

python -m bench.cost
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from bench import record
from bench.systems import WATER, read_system, shaken
from bench.timing import Rounds, Timing, rounds_in_turn
from twinforce import System
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.memory import keep_freed_memory
from twinforce_models.neighbors.walker_lists import WalkerLists
from twinforce_models.potential import Potential
from twinforce_models.potentials.hybrid_net.compilation.compiling import compiled
from twinforce_models.prediction import predict, predict_batch, split

ASKED = {
    "direct": {"energy", "direct_forces"},
    "conservative": {"energy", "conservative_forces"},
    "hybrid": {"energy", "conservative_forces", "direct_forces"},
}


def walk(potential: Potential, system: System, outputs: set[str]) -> Callable[[], object]:
    """Return the next step of a walker in this process, whose neighbor list is kept."""
    lists, shake = WalkerLists(), shaken(system)

    def step() -> object:
        batch = Batch.from_systems(
            [shake()],
            potential.cutoff,
            potential.dtype,
            potential.device,
            lists=lists,
            walkers=["walker"],
        )
        return split(predict_batch(potential, batch, outputs), batch)

    return step


def calls(plain: Potential, fast: Potential, system: System) -> dict[str, Callable[[], object]]:
    """Return what is timed; all of it includes the neighbor list."""
    timed: dict[str, Callable[[], object]] = {}
    for name, outputs in ASKED.items():
        timed[f"plain {name}"] = partial(predict, plain, [system], outputs)
        timed[f"compiled {name}"] = partial(predict, fast, [system], outputs)
        timed[f"walker {name}"] = walk(fast, system, outputs)
    return timed


def ratios(rounds: Rounds) -> dict[str, Timing]:
    """Return what follows from the rounds."""
    found = {
        f"F {way}": rounds.ratio(f"{way} conservative", f"{way} direct")
        for way in ("plain", "compiled", "walker")
    }
    for way in ("plain", "compiled"):
        hybrid = rounds.ratio(f"{way} hybrid", f"{way} conservative")
        found[f"hybrid over conservative, {way}"] = hybrid
    for way in ("compiled", "walker"):
        for name in ASKED:
            found[f"plain over {way}, {name}"] = rounds.ratio(f"plain {name}", f"{way} {name}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/cost.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.cost", description=main.__doc__)
    parser.add_argument("--model", default="water")
    parser.add_argument("--start", type=Path, default=WATER, help="atoms to start from")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--compile-cache", type=Path, default=Path("~/.cache/twinforce"), help="as of the service"
    )
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    plain = registry.load(options.model, device="cpu", dtype="float32").potential
    begin = time.perf_counter()
    fast = compiled(plain, options.compile_cache, options.threads, wait=True)
    seconds = time.perf_counter() - begin
    system = read_system(options.start)
    rounds = rounds_in_turn(calls(plain, fast, system), options.seconds)
    timings, found = rounds.timings(), ratios(rounds)
    for name, timing in (timings | found).items():
        print(f"{name:36}{timing}")
    print(f"{'until the parts could be used':36}{seconds:8.2f} s")
    record.write(
        options.out,
        "cost",
        found,
        options.threads,
        model=options.model,
        n_atoms=len(system),
        milliseconds={name: asdict(timing) for name, timing in timings.items()},
        seconds_until_compiled=seconds,
    )


if __name__ == "__main__":
    main()
