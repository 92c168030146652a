"""Everything that is measured on a GPU, as one script.

    python -m bench.gpu

- What a batch costs, per atom and step, against the number of systems in it: the native model,
  compiled, each kind of forces, as an engine evaluates it: laid out on the host, sent, searched,
  evaluated, brought back and taken apart, with other positions each time.
- A PET about the size of pet-mad-s, of random weights, from its checkpoint, beside metatomic's own
  calculator on the same GPU: a step of one walker, and 32 walkers in one batch beside 32 steps of
  the calculator one after another. Then the same walkers through a service, over gRPC.
- What the first batch of a new size costs, which is recorded as a CUDA graph.
- How busy the GPU is meanwhile (`nvidia-smi`), and where its time goes (torch's profiler).

Without a GPU it says so, and keeps what was measured where there was one. `--device cpu --quick`
goes the same way on a CPU, to see that it still works; it writes nothing to the results.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from demo.serving import running_service
from torch.profiler import ProfilerActivity, profile

from bench import record
from bench.cost import ASKED
from bench.systems import WATER, read_system, shaken, water_box
from bench.timing import Rounds, Timing, rounds_in_turn
from bench.walking import OUTPUTS, rate, walkers
from twinforce import Client, System
from twinforce_models import registry
from twinforce_models.memory import keep_freed_memory
from twinforce_models.potential import Potential
from twinforce_models.potentials.hybrid_net.compilation.compiling import compiled
from twinforce_models.tables.predictor import TablePredictor
from twinforce_service.settings import Settings

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
N_WALKERS = 32
PET_OUTPUTS = frozenset({"energy", "conservative_forces", "conservative_stress"})
# Of the profile, the operations that take most.
N_OPERATIONS = 12
_MAX_ENTRIES = 2**28
# Molecules along the edges of boxes that nothing was evaluated of before.
_NEW_SIZES = ((3, 3, 3), (4, 4, 5), (5, 5, 5), (6, 6, 6), (8, 8, 8))


def walk_together(
    potential: Potential, system: System, n_walkers: int, outputs: frozenset[str]
) -> Callable[[], object]:
    """Return the next step of many walkers in one batch."""
    predictor = TablePredictor(potential, _MAX_ENTRIES)
    shakes = [shaken(system) for _ in range(n_walkers)]
    return lambda: predictor.predict([shake() for shake in shakes], outputs)


def batches(
    potential: Potential, system: System, sizes: Sequence[int], seconds: float
) -> dict[str, dict[str, dict[str, float]]]:
    """Return µs per atom and step, for each kind of forces and number of systems that fits."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind, outputs in ASKED.items():
        found[kind] = {}
        for n_systems in sizes:
            name = f"{kind}, {n_systems}"
            step = walk_together(potential, system, n_systems, frozenset(outputs))
            try:
                rounds = rounds_in_turn({name: step}, seconds)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                print(f"{name} systems: out of memory")
                break
            per_atom = 1e3 / (n_systems * len(system))
            timing = Timing.of([ms * per_atom for ms in rounds.taken[name]])
            print(f"{name:24}{timing} µs per atom and step")
            found[kind][str(n_systems)] = asdict(timing)
    return found


def new_sizes(potential: Potential) -> dict[str, dict[str, float]]:
    """Return what batches of sizes cost that were never seen, and what the next ones do, in ms."""
    predictor, found = TablePredictor(potential, _MAX_ENTRIES), {}
    outputs = frozenset(ASKED["conservative"])
    predictor.predict([read_system()], outputs)
    for sides in _NEW_SIZES:
        shake, taken = shaken(water_box(*sides)), []
        for _ in range(4):
            begin = time.perf_counter()
            predictor.predict([shake()], outputs)
            taken.append(1e3 * (time.perf_counter() - begin))
        found[str(len(shake()))] = {"first": taken[0], "second": taken[1], "later": min(taken[2:])}
    return found


def beside_calculator(
    paths: tuple[Path, Path], n_walkers: int, seconds: float, device: str
) -> tuple[Rounds, Callable[[], object]]:
    """Time a PET beside metatomic's calculator; return a step of all walkers besides.

    Args:
        paths: Its checkpoint, and the same exported.
        n_walkers: In a batch.
        seconds: For all that is timed.
        device: Of both.
    """
    from metatomic_ase import MetatomicCalculator

    potential = registry.load(paths[0], device=device, dtype="float32").potential
    calculator = MetatomicCalculator(str(paths[1]), device=device)
    system, atoms = read_system(), ase.io.read(WATER)
    shake = shaken(system)

    def calculate() -> None:
        moved = atoms.copy()
        moved.positions = shake().positions
        moved.calc = calculator
        moved.get_forces()
        moved.get_stress()

    together = walk_together(potential, system, n_walkers, PET_OUTPUTS)
    things = {
        "calculator, one walker": calculate,
        "one walker": walk_together(potential, system, 1, PET_OUTPUTS),
        "calculator, all": lambda: [calculate() for _ in range(n_walkers)],
        "all walkers": together,
    }
    return rounds_in_turn(things, seconds), together


def served(
    models: Mapping[str, Path | str], n_walkers: int, seconds: float, *flags: str
) -> dict[str, dict[str, Timing]]:
    """Return ms of a step of one walker, and evaluations/s of many, through a service over gRPC.

    Args:
        models: Name -> spec.
        n_walkers: How many walkers are many; one process moves them all.
        seconds: For each model.
        flags: More of the service.
    """
    specs = [f"--model={name}={spec}" for name, spec in models.items()]
    found = {}
    begin = time.perf_counter()
    with running_service("--no-water", *flags, *specs) as (_, url):
        print(f"the service was ready after {time.perf_counter() - begin:.1f} s")
        for name in models:
            rates = asyncio.run(_rates(url, name, n_walkers, seconds / 2))
            found[name] = {
                "ms": _one_walker(url, name, seconds / 2),
                "evaluations/s": Timing.of(rates),
            }
            print(f"{name} served: {found[name]}")
    return found


def _one_walker(url: str, model: str, seconds: float) -> Timing:
    shake = shaken(read_system())
    with Client(url) as client, client.stream(model, OUTPUTS) as stream:
        step = rounds_in_turn({"step": lambda: stream.predict(shake())}, seconds)
    return step.timings()["step"]


async def _rates(url: str, model: str, n_walkers: int, seconds: float) -> list[float]:
    async with AsyncExitStack() as stack:
        steps = await walkers(url, read_system(), n_walkers, model, stack)
        await rate(steps, seconds / 4)
        return [await rate(steps, seconds / 4) for _ in range(3)]


@contextmanager
def watched() -> Iterator[list[float]]:
    """Collect how busy the GPU is, in %, five times a second; nothing without `nvidia-smi`."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    busy: list[float] = []
    try:
        process = subprocess.Popen([*command, "-lms", "200"], stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        yield busy
        return
    try:
        yield busy
    finally:
        process.terminate()
        output, _ = process.communicate()
        busy += [float(line) for line in output.split() if line.replace(".", "", 1).isdigit()]


def used(step: Callable[[], object], seconds: float) -> Timing | None:
    """Return how busy the GPU is while the walkers go on, in %; None if nobody can tell."""
    with watched() as busy:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            step()
    return Timing.of(busy) if busy else None


def profiled(step: Callable[[], object], n_steps: int, device: str) -> dict[str, Any]:
    """Return the operations that take most of the device, and what the search for neighbors does.

    Returns:
        "operations", rows; "search", the share of the kernels of `tables.kernels`.
    """
    activities = [ProfilerActivity.CPU if device == "cpu" else ProfilerActivity.CUDA]
    step()
    with profile(activities=activities) as found:
        for _ in range(n_steps):
            step()
    name = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    averages = sorted(found.key_averages(), key=lambda each: -getattr(each, name))
    total = sum(getattr(each, name) for each in averages) or 1.0
    rows = [
        {
            "operation": each.key,
            "share": getattr(each, name) / total,
            "ms_per_step": 1e-3 * getattr(each, name) / n_steps,
            "calls_per_step": each.count / n_steps,
        }
        for each in averages
    ]
    search = sum(row["share"] for row in rows if row["operation"] in ("_search", "_reverse"))
    return {
        "operations": rows[:N_OPERATIONS],
        "search": search,
        "ms_per_step": 1e-3 * total / n_steps,
    }


def without_gpu(device: str) -> str | None:
    """Return why nothing can be measured, or None if it can."""
    if device == "cpu" or torch.cuda.is_available():
        return None
    return f"torch {torch.__version__} finds no CUDA device"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/gpu.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=main.__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="few systems and a small PET")
    parser.add_argument("--plain", action="store_true", help="the native model not compiled")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    options = parser.parse_args(arguments)
    reason = without_gpu(options.device)
    if reason is not None:
        print(f"skipped: {reason}", file=sys.stderr)
        if not record.read(options.out, "gpu").get("figures"):
            record.write(options.out, "gpu", {}, skipped=reason)
        return
    from bench.pet import save

    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        size = "small" if options.quick else "like pet-mad-s"
        figures, details = measured(options, save(size, Path(folder)))
    if options.device == "cpu":
        print("\nwritten nowhere: this is no GPU")
        return
    device = torch.cuda.get_device_name(options.device)
    record.write(options.out, "gpu", figures, device=device, **details)


def measured(
    options: argparse.Namespace, paths: tuple[Path, Path]
) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Measure everything; return what is compared with bars, and the rest."""
    sizes, n_walkers = (BATCHES[:2], 2) if options.quick else (BATCHES, N_WALKERS)
    part, device = options.seconds / 5.0, options.device
    native: Potential = registry.load("water", device=device, dtype="float32").potential
    if not options.plain:
        native = compiled(native, Path(Settings().compile_cache), 1, wait=True)
    scaling = batches(native, read_system(), sizes, part / (len(ASKED) * len(sizes)))
    first = new_sizes(native)
    rounds, together = beside_calculator(paths, n_walkers, 2.0 * part, device)
    models = {"water": "water", "pet": paths[0]}
    compiling = f"--compile={'off' if options.plain else 'on'}"
    through = served(models, n_walkers, part, f"--device={device}", compiling)
    figures = compared(rounds, through)
    best = min(scaling["conservative"].values(), key=lambda each: each["median"])
    figures["µs per atom and step, conservative"] = Timing(**best)
    together_native = walk_together(
        native, read_system(), n_walkers, frozenset(ASKED["conservative"])
    )
    for name, step in (("PET", together), ("water", together_native)):
        if (busy := used(step, part / 4)) is not None:
            figures[f"utilisation, {name}, %"] = busy
    for name, timing in (figures | rounds.timings()).items():
        print(f"{name:50}{timing}")
    profiles = {
        f"PET, {n_walkers} walkers": profiled(together, 3, device),
        f"`water`, {n_walkers} walkers, conservative": profiled(together_native, 3, device),
    }
    for name, found in profiles.items():
        print(f"\n{name}: search for neighbors {found['search']:.1%}")
        for row in found["operations"]:
            print(f"  {row['share']:6.1%} {row['ms_per_step']:9.3f} ms  {row['operation'][:70]}")
    return figures, {
        "is_compiled": not options.plain,
        "n_walkers": n_walkers,
        "n_atoms": len(read_system()),
        "us_per_atom_and_step": scaling,
        "new_sizes_ms": first,
        "milliseconds": {name: asdict(timing) for name, timing in rounds.timings().items()},
        "served": {
            model: {name: asdict(timing) for name, timing in each.items()}
            for model, each in through.items()
        },
        "profiles": profiles,
    }


def compared(rounds: Rounds, through: Mapping[str, Mapping[str, Timing]]) -> dict[str, Timing]:
    """Return how many times as fast as the calculator a PET is, in this process and served."""
    one = np.median(rounds.taken["calculator, one walker"])
    rates, step = through["pet"]["evaluations/s"], through["pet"]["ms"]
    per_second = np.array([rates.median, rates.low, rates.high]) * one / 1e3
    return {
        "PET, calculator over one walker": rounds.ratio("calculator, one walker", "one walker"),
        "PET, calculator over all walkers": rounds.ratio("calculator, all", "all walkers"),
        "PET, calculator over one served walker": Timing(
            one / step.median, one / step.high, one / step.low
        ),
        "PET, calculator over all served walkers": Timing(*per_second.tolist()),
    }


if __name__ == "__main__":
    main()
