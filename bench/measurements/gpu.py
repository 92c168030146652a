"""All measurements that need a GPU, as one script.

    python -m bench.measurements.gpu

- The cost of a batch, per atom and step, against the number of its systems: the compiled native
  model, each kind of forces, as an engine evaluates it. That includes the layout on the host, the
  transfer to the device, the neighbor search, the evaluation, the transfer back and the split, with
  other positions each time.
- A PET about the size of pet-mad-s with random weights, from its checkpoint, compared with
  metatomic's own calculator on the same GPU: a step of one walker, and 32 walkers in one batch
  against 32 successive steps of the calculator. Then the same walkers through a service over gRPC.
- The cost of the first batches of a new size, one of which is recorded as a CUDA graph.
- The utilization of the GPU (`nvidia-smi`), and its time by operation (torch's profiler).

Without a GPU, the command says so and keeps earlier results. `--device cpu --quick` runs the same
code on a CPU as a check, and writes no results.
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
from torch.profiler import ProfilerActivity, profile

from bench.measurements.cost import OUTPUTS_OF_KIND
from bench.runner import record
from bench.runner.closed_loop import OUTPUTS, rate, walkers
from bench.runner.command_line import parser_of
from bench.runner.processes import running_service
from bench.runner.systems import WATER, read_system, shaken, water_box
from bench.runner.timing import Rounds, Timing, rounds_in_turn
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
# Number of operations of a profile that are kept, the most expensive ones.
N_OPERATIONS = 12
_MAX_ENTRIES = 2**28
# Number of molecules along the edges of boxes whose sizes were not evaluated before.
_NEW_SIZES = ((3, 3, 3), (4, 4, 5), (5, 5, 5), (6, 6, 6), (8, 8, 8))


def batched_step(
    potential: Potential, system: System, n_walkers: int, outputs: frozenset[str]
) -> Callable[[], object]:
    """Return a function that takes a step of many walkers in one batch."""
    predictor = TablePredictor(potential, _MAX_ENTRIES)
    shakes = [shaken(system) for _ in range(n_walkers)]
    return lambda: predictor.predict([shake() for shake in shakes], outputs)


def batches(
    potential: Potential, system: System, sizes: Sequence[int], seconds: float
) -> dict[str, dict[str, dict[str, float]]]:
    """Return µs per atom and step, for each kind of forces and number of systems that fits."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind, outputs in OUTPUTS_OF_KIND.items():
        found[kind] = {}
        for n_systems in sizes:
            name = f"{kind}, {n_systems}"
            step = batched_step(potential, system, n_systems, frozenset(outputs))
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
    """Return the cost of the first, second and later batches of new sizes, in ms."""
    predictor, found = TablePredictor(potential, _MAX_ENTRIES), {}
    outputs = frozenset(OUTPUTS_OF_KIND["conservative"])
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
    """Time a PET and metatomic's calculator in turn.

    Args:
        paths: Checkpoint and exported file of the same PET.
        n_walkers: Number of walkers in a batch.
        seconds: Duration of all rounds.
        device: Device of both.

    Returns:
        The rounds, and a function that takes a step of all walkers with the PET.
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

    step = batched_step(potential, system, n_walkers, PET_OUTPUTS)
    things = {
        "calculator, one walker": calculate,
        "one walker": batched_step(potential, system, 1, PET_OUTPUTS),
        "calculator, all": lambda: [calculate() for _ in range(n_walkers)],
        "all walkers": step,
    }
    return rounds_in_turn(things, seconds), step


def served(
    models: Mapping[str, Path | str], n_walkers: int, seconds: float, *flags: str
) -> dict[str, dict[str, Timing]]:
    """Return the timings of walkers that use a service over gRPC.

    Args:
        models: Name -> spec.
        n_walkers: Number of walkers, all of them in this process.
        seconds: Duration for each model.
        flags: Further flags of the service.

    Returns:
        Model -> "ms", the step of a single walker, and "evaluations/s" of all walkers together.
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
def sampled_utilization() -> Iterator[list[float]]:
    """Yield a list that holds the utilization of the GPU after the block, in %, every 0.2 s.

    The list stays empty without `nvidia-smi`.
    """
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    samples: list[float] = []
    try:
        process = subprocess.Popen([*command, "-lms", "200"], stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        yield samples
        return
    try:
        yield samples
    finally:
        process.terminate()
        output, _ = process.communicate()
        samples += [float(line) for line in output.split() if line.replace(".", "", 1).isdigit()]


def utilization(step: Callable[[], object], seconds: float) -> Timing | None:
    """Return the utilization of the GPU during the steps, in %; None without `nvidia-smi`."""
    with sampled_utilization() as samples:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            step()
    return Timing.of(samples) if samples else None


def profiled(step: Callable[[], object], n_steps: int, device: str) -> dict[str, Any]:
    """Return the time on the device by operation.

    Returns:
        "operations": Rows of the most expensive operations.
        "search": Share of the kernels in `tables.kernels`.
        "ms_per_step": Time of all operations.
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


def reason_without_gpu(device: str) -> str | None:
    """Return why nothing can be measured on this device, or None."""
    if device == "cpu" or torch.cuda.is_available():
        return None
    return f"torch {torch.__version__} finds no CUDA device"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/gpu.json."""
    parser = parser_of("bench.measurements.gpu", __doc__)
    parser.add_argument("--device", default="cuda", help="torch device")
    parser.add_argument("--quick", action="store_true", help="use few systems and a small PET")
    parser.add_argument("--plain", action="store_true", help="do not compile the native model")
    parser.add_argument("--seconds", type=float, default=120.0, help="approximate duration")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    reason = reason_without_gpu(options.device)
    if reason is not None:
        print(f"skipped: {reason}", file=sys.stderr)
        if not record.read(options.out, "gpu").get("figures"):
            record.write(options.out, "gpu", {}, skipped=reason)
        return
    from bench.measurements.pet import save

    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        size = "small" if options.quick else "like pet-mad-s"
        figures, details = measured(options, save(size, Path(folder)))
    if options.device == "cpu":
        print("\nno results were written, because the device is a CPU")
        return
    device = torch.cuda.get_device_name(options.device)
    record.write(options.out, "gpu", figures, device=device, **details)


def measured(
    options: argparse.Namespace, paths: tuple[Path, Path]
) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Measure everything; return the figures that are compared with bars, and the details."""
    sizes, n_walkers = (BATCHES[:2], 2) if options.quick else (BATCHES, N_WALKERS)
    part, device = options.seconds / 5.0, options.device
    native: Potential = registry.load("water", device=device, dtype="float32").potential
    if not options.plain:
        native = compiled(native, Path(Settings().compile_cache), 1, wait=True)
    n_parts = len(OUTPUTS_OF_KIND) * len(sizes)
    scaling = batches(native, read_system(), sizes, part / n_parts)
    first = new_sizes(native)
    rounds, pet_step = beside_calculator(paths, n_walkers, 2.0 * part, device)
    models = {"water": "water", "pet": paths[0]}
    compiling = f"--compile={'off' if options.plain else 'on'}"
    through = served(models, n_walkers, part, f"--device={device}", compiling)
    figures = compared(rounds, through)
    best = min(scaling["conservative"].values(), key=lambda each: each["median"])
    figures["µs per atom and step, conservative"] = Timing(**best)
    conservative = frozenset(OUTPUTS_OF_KIND["conservative"])
    native_step = batched_step(native, read_system(), n_walkers, conservative)
    for name, step in (("PET", pet_step), ("water", native_step)):
        if (busy := utilization(step, part / 4)) is not None:
            figures[f"utilization, {name}, %"] = busy
    for name, timing in (figures | rounds.timings()).items():
        print(f"{name:50}{timing}")
    profiles = {
        f"PET, {n_walkers} walkers": profiled(pet_step, 3, device),
        f"`water`, {n_walkers} walkers, conservative": profiled(native_step, 3, device),
    }
    for name, found in profiles.items():
        print(f"\n{name}: neighbor search {found['search']:.1%}")
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
    """Return the speed of a PET over that of the calculator, in this process and served."""
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
