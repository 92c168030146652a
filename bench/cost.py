"""What an evaluation costs in this process: direct, conservative, both; plain and compiled.

python -m bench.cost
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import ase.io
import torch

from bench.machine import ROOT, describe_machine
from bench.nve import CompiledWater
from bench.timing import Timing, time_in_turn
from twinforce_models import registry
from twinforce_models.memory import keep_freed_memory
from twinforce_models.potential import predict
from twinforce_models.potentials.hybrid_net import HybridNet
from twinforce_models.training.report import to_system

ASKED = {
    "direct": {"energy", "direct_forces"},
    "conservative": {"energy", "conservative_forces"},
    "hybrid": {"energy", "conservative_forces", "direct_forces"},
}


def calls(potential: HybridNet, path: Path) -> dict[str, Callable[[], object]]:
    """Return what is timed; all of it includes the neighbor list."""
    atoms = ase.io.read(path)
    system = to_system(atoms)
    timed: dict[str, Callable[[], object]] = {
        f"plain {name}": partial(predict, potential, [system], outputs)
        for name, outputs in ASKED.items()
    }
    for name in ("direct", "conservative"):
        calculator = CompiledWater(potential, atoms, conservative=name == "conservative")
        timed[f"compiled {name}"] = partial(calculator.calculate, atoms)
    return timed


def ratios(timings: dict[str, Timing]) -> dict[str, float]:
    """Return what follows from the medians."""
    median = {name: timing.median for name, timing in timings.items()}
    return {
        "F plain": median["plain conservative"] / median["plain direct"],
        "F compiled": median["compiled conservative"] / median["compiled direct"],
        "hybrid over conservative, plain": median["plain hybrid"] / median["plain conservative"],
        "plain over compiled, direct": median["plain direct"] / median["compiled direct"],
        "plain over compiled, conservative": median["plain conservative"]
        / median["compiled conservative"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/cost.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.cost", description=main.__doc__)
    parser.add_argument("--model", default="water")
    parser.add_argument(
        "--start", type=Path, default=ROOT / "demo" / "water64.xyz", help="atoms to start from"
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    potential = registry.load(options.model, device="cpu", dtype="float32").potential
    assert isinstance(potential, HybridNet)
    timings = time_in_turn(calls(potential, options.start), options.seconds)
    found = ratios(timings)
    for name, timing in timings.items():
        print(f"{name:36}{timing} ms")
    for name, value in found.items():
        print(f"{name:36}{value:8.2f}")
    content = {
        "machine": describe_machine(options.threads),
        "milliseconds": {name: asdict(timing) for name, timing in timings.items()},
        "ratios": found,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "cost.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
