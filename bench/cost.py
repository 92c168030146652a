"""What an evaluation costs in this process: plain, compiled, and with a neighbor list kept.

python -m bench.cost
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import ase.io
import numpy as np
import torch

from bench.machine import ROOT, describe_machine
from bench.timing import Timing, time_in_turn
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.compilation.compiling import compiled
from twinforce_models.memory import keep_freed_memory
from twinforce_models.potential import Potential, predict, predict_batch, split
from twinforce_models.skin import WalkerLists
from twinforce_models.training.report import to_system
from twinforce_proto import System

ASKED = {
    "direct": {"energy", "direct_forces"},
    "conservative": {"energy", "conservative_forces"},
    "hybrid": {"energy", "conservative_forces", "direct_forces"},
}
# Å; what an atom of water moves in some steps of molecular dynamics.
STEP = 0.01


def walk(potential: Potential, system: System, outputs: set[str]) -> Callable[[], object]:
    """Return the next step of a walker whose neighbor list is kept."""
    generator, lists = np.random.default_rng(0), WalkerLists()
    positions = system.positions.copy()

    def step() -> object:
        nonlocal positions
        positions = positions + generator.normal(scale=STEP, size=positions.shape)
        positions = system.positions + 0.9 * (positions - system.positions)
        batch = Batch.from_systems(
            [system.moved(positions)],
            potential.cutoff,
            potential.dtype,
            potential.device,
            lists=lists,
            walkers=["walker"],
        )
        return split(predict_batch(potential, batch, outputs), batch)

    return step


def calls(plain: Potential, fast: Potential, path: Path) -> dict[str, Callable[[], object]]:
    """Return what is timed; all of it includes the neighbor list."""
    system = to_system(ase.io.read(path))
    timed: dict[str, Callable[[], object]] = {}
    for name, outputs in ASKED.items():
        timed[f"plain {name}"] = partial(predict, plain, [system], outputs)
        timed[f"compiled {name}"] = partial(predict, fast, [system], outputs)
        timed[f"walker {name}"] = walk(fast, system, outputs)
    return timed


def ratios(timings: dict[str, Timing]) -> dict[str, float]:
    """Return what follows from the medians."""
    median = {name: timing.median for name, timing in timings.items()}
    found = {
        f"F {way}": median[f"{way} conservative"] / median[f"{way} direct"]
        for way in ("plain", "compiled", "walker")
    }
    for way in ("plain", "compiled"):
        hybrid = median[f"{way} hybrid"] / median[f"{way} conservative"]
        found[f"hybrid over conservative, {way}"] = hybrid
    for way in ("compiled", "walker"):
        for name in ASKED:
            found[f"plain over {way}, {name}"] = median[f"plain {name}"] / median[f"{way} {name}"]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/cost.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.cost", description=main.__doc__)
    parser.add_argument("--model", default="water")
    parser.add_argument(
        "--start", type=Path, default=ROOT / "demo" / "water64.xyz", help="atoms to start from"
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--compile-cache", type=Path, default=Path("~/.cache/twinforce"), help="as of the service"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    plain = registry.load(options.model, device="cpu", dtype="float32").potential
    begin = time.perf_counter()
    fast = compiled(plain, options.compile_cache, options.threads, wait=True)
    seconds = time.perf_counter() - begin
    timings = time_in_turn(calls(plain, fast, options.start), options.seconds)
    found = ratios(timings)
    for name, timing in timings.items():
        print(f"{name:36}{timing} ms")
    for name, value in found.items():
        print(f"{name:36}{value:8.2f}")
    print(f"{'until the parts could be used':36}{seconds:8.2f} s")
    content = {
        "machine": describe_machine(options.threads),
        "milliseconds": {name: asdict(timing) for name, timing in timings.items()},
        "ratios": found,
        "seconds_until_compiled": seconds,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "cost.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
