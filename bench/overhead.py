"""What the network adds to a step: the same evaluation in this process and over each transport.

    python -m bench.overhead

The service runs as a process of its own, as it does for users. Positions change at every call, as
they do in molecular dynamics. The near-free toy shows the overhead bare; `water` shows what it
matters for.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import ase.io
import numpy as np
import torch
from demo.serving import running_service

from bench.machine import ROOT, describe_machine
from bench.timing import time_in_turn
from twinforce import Client, System
from twinforce_models import registry
from twinforce_models.memory import keep_freed_memory
from twinforce_models.potential import predict

OUTPUTS = ("energy", "conservative_forces")
MODELS = {"water": "water", "toy": "toy:harmonic"}


def shaken(system: System) -> Callable[[], System]:
    """Return a function that gives the system with other positions each time."""
    generator = np.random.default_rng(0)
    shape = system.positions.shape

    def shake() -> System:
        return system.moved(system.positions + generator.uniform(-0.01, 0.01, shape))

    return shake


def calls_of(
    model: str, system: System, urls: tuple[str, str], stack: ExitStack
) -> dict[str, Callable[[], object]]:
    """Return the ways to evaluate the system."""
    rest_url, grpc_url = urls
    rest, grpc = stack.enter_context(Client(rest_url)), stack.enter_context(Client(grpc_url))
    json_rest = stack.enter_context(Client(rest_url, encoding="json"))
    stream = stack.enter_context(grpc.stream(model=model, outputs=OUTPUTS))
    potential = registry.load(MODELS[model]).potential
    shake = shaken(system)
    return {
        "in this process": lambda: predict(potential, [shake()], OUTPUTS),
        "gRPC stream": lambda: stream.predict(shake()),
        "gRPC unary": lambda: grpc.predict(shake(), OUTPUTS, model=model),
        "REST protobuf": lambda: rest.predict(shake(), OUTPUTS, model=model),
        "REST JSON": lambda: json_rest.predict(shake(), OUTPUTS, model=model),
    }


def measure(urls: tuple[str, str], system: System, seconds: float) -> dict[str, object]:
    """Time every way for every model; print as it goes."""
    results: dict[str, object] = {}
    for model in MODELS:
        with ExitStack() as stack:
            timings = time_in_turn(calls_of(model, system, urls, stack), seconds)
        base = timings["in this process"].median
        print(f"\n{model}, {len(system)} atoms, ms per step: median (10% - 90%), over in-process")
        for name, timing in timings.items():
            print(f"  {name:18}{timing}   x {timing.median / base:.3f}")
        results[model] = {
            name: asdict(timing) | {"over_in_process": timing.median / base}
            for name, timing in timings.items()
        }
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/overhead.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=main.__doc__)
    parser.add_argument(
        "--start", type=Path, default=ROOT / "demo" / "water64.xyz", help="atoms to start from"
    )
    parser.add_argument("--seconds", type=float, default=40.0, help="for each model")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    atoms = ase.io.read(options.start)
    system = System(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    with running_service("--n-threads=1", "--compile=off", f"--model=toy={MODELS['toy']}") as urls:
        results = measure(urls, system, options.seconds)
    content = {"machine": describe_machine(1), "milliseconds": results}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "overhead.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
