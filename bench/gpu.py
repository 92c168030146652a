"""Everything that is measured on a GPU, as one script.

    python -m bench.gpu

- What a batch costs, per atom and step, against the number of systems in it: the native model,
  compiled, each kind of forces, neighbor lists kept as walkers have them, until the memory is
  full.
- A PET about the size of pet-mad-s, of random weights, from its checkpoint, beside metatomic's own
  calculator on the same GPU: a step of one walker, and 32 walkers in one batch beside 32 steps of
  the calculator one after another.
- How busy the GPU is meanwhile (`nvidia-smi`), and where its time goes (torch's profiler).

Without a GPU it says so and writes that. `--device cpu --quick` goes the same way on a CPU, to see
that it still works; it writes nothing to the results.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ase.io
import torch
from torch.profiler import ProfilerActivity, profile

from bench import record
from bench.cost import ASKED
from bench.systems import WATER, read_system, shaken
from bench.timing import Rounds, Timing, rounds_in_turn
from twinforce import System
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.compilation.compiling import compiled
from twinforce_models.memory import keep_freed_memory
from twinforce_models.potential import Potential, predict_batch, split
from twinforce_models.skin import WalkerLists
from twinforce_service.settings import Settings

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
N_WALKERS = 32
PET_OUTPUTS = {"energy", "conservative_forces", "conservative_stress"}
# Of the profile, the operations that take most.
N_OPERATIONS = 15


def walk_together(
    potential: Potential, system: System, n_walkers: int, outputs: set[str]
) -> Callable[[], object]:
    """Return the next step of many walkers in one batch."""
    lists, shakes = WalkerLists(max_pairs=50_000_000), [shaken(system) for _ in range(n_walkers)]
    names = [f"walker {index}" for index in range(n_walkers)]

    def step() -> object:
        batch = Batch.from_systems(
            [shake() for shake in shakes],
            potential.cutoff,
            potential.dtype,
            potential.device,
            lists=lists,
            walkers=names,
        )
        return split(predict_batch(potential, batch, outputs), batch)

    return step


def batches(
    potential: Potential, system: System, sizes: Sequence[int], seconds: float
) -> dict[str, dict[str, dict[str, float]]]:
    """Return µs per atom and step, for each kind of forces and number of systems that fits."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind, outputs in ASKED.items():
        found[kind] = {}
        for n_systems in sizes:
            name = f"{kind}, {n_systems}"
            step = walk_together(potential, system, n_systems, outputs)
            try:
                rounds = rounds_in_turn({name: step}, seconds)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                print(f"{name} systems: out of memory")
                break
            per_atom = 1e3 / (n_systems * len(system))
            timing = Timing.of([ms * per_atom for ms in rounds.taken[name]])
            print(f"{name:24}{timing} µs per atom and step")
            found[kind][str(n_systems)] = asdict(timing)
    return found


def beside_calculator(
    size: str, n_walkers: int, seconds: float, device: str
) -> tuple[Rounds, Callable[[], object]]:
    """Time a PET beside metatomic's calculator; return a step of all walkers besides."""
    from metatomic_ase import MetatomicCalculator

    from bench.pet import save

    with tempfile.TemporaryDirectory() as folder:
        checkpoint, exported = save(size, Path(folder))
        potential = registry.load(checkpoint, device=device, dtype="float32").potential
        calculator = MetatomicCalculator(str(exported), device=device)
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


def profiled(step: Callable[[], object], n_steps: int, device: str) -> list[dict[str, Any]]:
    """Return the operations that take most of the device, and what of it they take."""
    activities = [ProfilerActivity.CPU]
    if device != "cpu":
        activities.append(ProfilerActivity.CUDA)
    step()
    with profile(activities=activities) as found:
        for _ in range(n_steps):
            step()
    name = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    averages = sorted(found.key_averages(), key=lambda each: -getattr(each, name))
    total = sum(getattr(each, name) for each in averages) or 1.0
    return [
        {
            "operation": each.key,
            "share": getattr(each, name) / total,
            "ms_per_step": 1e-3 * getattr(each, name) / n_steps,
            "calls_per_step": each.count / n_steps,
        }
        for each in averages[:N_OPERATIONS]
    ]


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
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    options = parser.parse_args(arguments)
    reason = without_gpu(options.device)
    if reason is not None:
        print(f"skipped: {reason}", file=sys.stderr)
        record.write(options.out, "gpu", {}, skipped=reason)
        return
    keep_freed_memory()
    torch.set_num_threads(1)
    sizes, n_walkers = (BATCHES[:2], 2) if options.quick else (BATCHES, N_WALKERS)
    part = options.seconds / 4.0
    plain = registry.load("water", device=options.device, dtype="float32").potential
    native = compiled(plain, Path(Settings().compile_cache), 1, wait=True)
    scaling = batches(native, read_system(), sizes, part / (len(ASKED) * len(sizes)))
    size = "small" if options.quick else "like pet-mad-s"
    rounds, together = beside_calculator(size, n_walkers, 2.0 * part, options.device)
    figures = {
        "PET, calculator over one walker": rounds.ratio("calculator, one walker", "one walker"),
        "PET, calculator over all walkers": rounds.ratio("calculator, all", "all walkers"),
    }
    best = min(scaling["conservative"].values(), key=lambda each: each["median"])
    figures["µs per atom and step, conservative"] = Timing(**best)
    busy = used(together, part)
    if busy is not None:
        figures["utilisation, %"] = busy
    for name, timing in (figures | rounds.timings()).items():
        print(f"{name:40}{timing}")
    profiles = {"PET, all walkers": profiled(together, 3, options.device)}
    step = walk_together(native, read_system(), n_walkers, ASKED["conservative"])
    profiles["native, all walkers, conservative"] = profiled(step, 3, options.device)
    for name, rows in profiles.items():
        print(f"\n{name}")
        for row in rows:
            print(f"  {row['share']:6.1%} {row['ms_per_step']:9.3f} ms  {row['operation'][:70]}")
    if options.device == "cpu":
        print("\nwritten nowhere: this is no GPU")
        return
    record.write(
        options.out,
        "gpu",
        figures,
        device=torch.cuda.get_device_name(options.device),
        n_walkers=n_walkers,
        n_atoms=len(read_system()),
        us_per_atom_and_step=scaling,
        milliseconds={name: asdict(timing) for name, timing in rounds.timings().items()},
        profiles=profiles,
    )


if __name__ == "__main__":
    main()
