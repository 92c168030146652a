"""The cost of an evaluation in this process: plain, compiled, and with a kept neighbor list.

python -m bench.measurements.cost
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from bench.runner import record
from bench.runner.command_line import parser_of
from bench.runner.systems import WATER, read_system, shaken
from bench.runner.timing import Rounds, Timing, rounds_in_turn
from twinforce import System
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.memory import keep_freed_memory
from twinforce_models.neighbors.walker_lists import WalkerLists
from twinforce_models.potential import Potential
from twinforce_models.potentials.hybrid_net.compilation.compiling import compiled
from twinforce_models.prediction import predict, predict_batch, split

OUTPUTS_OF_KIND = {
    "direct": {"energy", "direct_forces"},
    "conservative": {"energy", "conservative_forces"},
    "hybrid": {"energy", "conservative_forces", "direct_forces"},
}


def walker_step(potential: Potential, system: System, outputs: set[str]) -> Callable[[], object]:
    """Return a function that takes a step of a walker in this process, keeping neighbor lists."""
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
    """Return the functions to time; all of them make the neighbor list too."""
    timed: dict[str, Callable[[], object]] = {}
    for name, outputs in OUTPUTS_OF_KIND.items():
        timed[f"plain {name}"] = partial(predict, plain, [system], outputs)
        timed[f"compiled {name}"] = partial(predict, fast, [system], outputs)
        timed[f"walker {name}"] = walker_step(fast, system, outputs)
    return timed


def ratios(rounds: Rounds) -> dict[str, Timing]:
    """Return the ratios of the timings, by name."""
    found = {
        f"F {variant}": rounds.ratio(f"{variant} conservative", f"{variant} direct")
        for variant in ("plain", "compiled", "walker")
    }
    for variant in ("plain", "compiled"):
        hybrid = rounds.ratio(f"{variant} hybrid", f"{variant} conservative")
        found[f"hybrid over conservative, {variant}"] = hybrid
    for variant in ("compiled", "walker"):
        for name in OUTPUTS_OF_KIND:
            ratio = rounds.ratio(f"plain {name}", f"{variant} {name}")
            found[f"plain over {variant}, {name}"] = ratio
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/cost.json."""
    parser = parser_of("bench.measurements.cost", __doc__)
    parser.add_argument("--model", default="water", help="name of the model")
    parser.add_argument("--start", type=Path, default=WATER, help="file with the system")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of all rounds")
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    parser.add_argument("--compile-cache", type=Path, default=Path("~/.cache/twinforce"),
                        help="folder of compiled parts, as for the service")  # fmt: skip
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
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
    print(f"{'time to compile, or to load':36}{seconds:8.2f} s")
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
