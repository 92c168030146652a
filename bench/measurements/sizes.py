"""The time and the memory of a step against the size of the system: 54 to 20,577 atoms of water.

    python -m bench.measurements.sizes

The model is compiled and runs in this process, with a kept neighbor list as walkers have it. The
sizes are timed in turn. A straight line, a fixed cost and a cost per atom, is fitted to the medians
so that its largest relative deviation is minimal; that deviation is the result. The memory per atom
is the growth of the peak memory of this process between the first step and the end of the first
step of the largest size.
"""

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from bench.measurements.cost import OUTPUTS_OF_KIND, walker_step
from bench.runner import record
from bench.runner.command_line import parser_of
from bench.runner.systems import water_box
from bench.runner.timing import Timing, rounds_in_turn
from twinforce_models import registry
from twinforce_models.memory import keep_freed_memory
from twinforce_models.potentials.hybrid_net.compilation.compiling import compiled
from twinforce_service.settings import Settings

BOXES = ((3, 3, 2), (4, 4, 4), (6, 6, 6), (9, 9, 9), (13, 13, 13), (19, 19, 19))
KINDS = ("direct", "conservative")


def straight_line(sizes: Sequence[int], times: Sequence[float]) -> tuple[float, float, float]:
    """Return the line a + b n with the smallest largest relative deviation, and that deviation.

    Args:
        sizes: Numbers of atoms, n.
        times: One for each size; a and b have their unit.
    """
    n, t = np.asarray(sizes, float), np.asarray(times, float)
    best = (0.0, 0.0, np.inf)
    # The best line deviates by the same amount, with alternating signs, at three of the points
    # (Chebyshev).
    for i in range(len(n)):
        for j in range(i + 1, len(n)):
            for k in range(j + 1, len(n)):
                three = [i, j, k]
                rows = np.stack([np.ones(3), n[three], [1, -1, 1] * t[three]], axis=1)
                fixed, slope, _ = np.linalg.solve(rows, t[three])
                deviation = float(np.max(np.abs(fixed + slope * n - t) / t))
                if deviation < best[2]:
                    best = (float(fixed), float(slope), deviation)
    return best


def peak_memory() -> int:
    """Return the peak memory of this process, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory_of(steps: Mapping[int, Callable[[], object]]) -> dict[int, int]:
    """Take a step of each size, smallest first; return the growth of the peak memory, in bytes."""
    before = peak_memory()
    grown = {}
    for size in sorted(steps):
        steps[size]()
        grown[size] = peak_memory() - before
    return grown


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/sizes.json."""
    parser = parser_of("bench.measurements.sizes", __doc__)
    parser.add_argument("--model", default="water", help="name of the model")
    parser.add_argument("--seconds", type=float, default=90.0, help="duration of all rounds")
    parser.add_argument(
        "--boxes", type=int, default=len(BOXES), help="number of sizes, smallest first"
    )
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    plain = registry.load(options.model, device="cpu", dtype="float32").potential
    potential = compiled(plain, Path(Settings().compile_cache), 1, wait=True)
    boxes = [water_box(*sides) for sides in BOXES[: options.boxes]]
    # Memory that is allocated once must not count as memory per atom.
    walker_step(potential, boxes[0], OUTPUTS_OF_KIND["conservative"])()
    steps = {
        kind: {len(box): walker_step(potential, box, OUTPUTS_OF_KIND[kind]) for box in boxes}
        for kind in KINDS
    }
    memory = memory_of(steps["conservative"])
    sizes = sorted(memory)
    things = {f"{kind} {size}": steps[kind][size] for kind in KINDS for size in sizes}
    rounds = rounds_in_turn(things, options.seconds, n_warm_up=1)
    timings = rounds.timings()
    figures = {"memory per atom, KB": Timing(*[memory[sizes[-1]] / sizes[-1] / 1e3] * 3)}
    lines = {}
    for kind in KINDS:
        names = [f"{kind} {size}" for size in sizes]
        fixed, slope, deviation = straight_line(sizes, [timings[name].median for name in names])
        each = [
            straight_line(sizes, times)[2]
            for times in zip(*(rounds.taken[name] for name in names), strict=True)
        ]
        _, low, high = asdict(Timing.of(each)).values()
        figures[f"{kind}, deviation from a line"] = Timing(
            deviation, min(low, deviation), max(high, deviation)
        )
        lines[kind] = {"fixed_ms": fixed, "us_per_atom": 1e3 * slope}
        print(f"\n{kind}: {fixed:.2f} ms + {1e3 * slope:.1f} µs per atom, within {deviation:.1%}")
        for size, name in zip(sizes, names, strict=True):
            per_atom = 1e3 * timings[name].median / size
            print(f"  {size:6} atoms {timings[name]} ms  {per_atom:8.1f} µs per atom")
    print(f"\n{figures['memory per atom, KB'].median:.1f} KB of memory per atom")
    record.write(
        options.out,
        "sizes",
        figures,
        model=options.model,
        lines=lines,
        memory_bytes=memory,
        milliseconds={name: asdict(timing) for name, timing in timings.items()},
    )


if __name__ == "__main__":
    main()
