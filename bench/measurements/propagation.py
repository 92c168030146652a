"""The cost of a block of multiple time stepping whose steps the service takes.

    python -m bench.measurements.propagation

The unit is the time of eight direct steps in this process. It is compared with the block of M = 8
in this process, which has one evaluation of both forces; with the same block through `Propagate`,
one call per block from the last snapshot; and with several blocks in one call. The service runs in
a separate process. The model is compiled on both sides, and both sides keep neighbor lists from
step to step: otherwise the savings from kept lists in the service would hide the cost of a call.
Steps that search for neighbors each time are measured too.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import ase.io
import numpy as np
import torch

from bench.runner import record
from bench.runner.command_line import parser_of
from bench.runner.processes import running_service
from bench.runner.systems import WATER
from bench.runner.timing import Rounds, rounds_in_turn
from twinforce import Client, Integrator, Snapshot, Start, System
from twinforce.md import draw_velocities
from twinforce_dynamics.steps import Floats, ForceFunction, State, complete
from twinforce_dynamics.trajectory import Trajectory
from twinforce_models import registry
from twinforce_models.batch import Batch
from twinforce_models.memory import keep_freed_memory
from twinforce_models.neighbors.walker_lists import WalkerLists
from twinforce_models.potential import Potential
from twinforce_models.potentials.hybrid_net.compilation.compiling import compiled
from twinforce_models.prediction import predict_batch, split
from twinforce_proto import Prediction
from twinforce_service.settings import Settings

INNER_STEPS = 8
IN_PROCESS = f"{INNER_STEPS} direct steps in this process"
SEARCHING = "the same, lists made at each"
BLOCK = f"block of M = {INNER_STEPS}"
N_BLOCKS = 4
# Number of calls in a row before the next function has its turn: a client calls without a pause.
IN_A_ROW = 3
MANY = f"{BLOCK}, each of {N_BLOCKS} in a call"


def in_process(
    start: Start, potential: Potential, n_outer: int, *, keeps_lists: bool = True
) -> Callable[[], None]:
    """Return a function that takes the next `n_outer` outer steps in this process."""
    trajectory, lists = Trajectory(start), WalkerLists() if keeps_lists else None

    def force_function(outputs: frozenset[str]) -> ForceFunction:
        def evaluate(positions: Floats, cell: Floats) -> Prediction:
            batch = Batch.from_systems(
                [start.system.moved(positions, cell)],
                potential.cutoff,
                potential.dtype,
                potential.device,
                lists=lists,
                walkers=["walker"],
            )
            (prediction,) = split(predict_batch(potential, batch, outputs), batch)
            return prediction

        return evaluate

    inner, outer = map(force_function, trajectory.outputs)
    last: list[State] = [complete(trajectory.begin(), inner, outer)]

    def advance() -> None:
        for _ in range(n_outer):
            last[0] = complete(trajectory.step(last[0]), inner, outer)

    return advance


def on_server(client: Client, start: Start, model: str, n_blocks: int = 1) -> Callable[[], None]:
    """Return a function that moves the system by the next `n_blocks` blocks on the server."""
    last: list[Start | Snapshot] = [start]

    def advance() -> None:
        n_steps = n_blocks * INNER_STEPS
        *_, last[0] = client.propagate(last[0], n_steps, INNER_STEPS, model=model)

    return advance


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/propagation.json."""
    parser = parser_of("bench.measurements.propagation", __doc__)
    parser.add_argument("--model", default="water", help="name of the model")
    parser.add_argument("--start", type=Path, default=WATER, help="file with the system")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of all rounds")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    atoms = ase.io.read(options.start)
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    system = System(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)

    def start(**how: object) -> Start:
        integrator = Integrator(time_step_fs=0.5, **how)  # type: ignore[arg-type]
        return Start(system, atoms.get_velocities(), integrator)

    direct, hybrid = start(force_kind="direct"), start(inner_steps=INNER_STEPS)
    loaded = registry.load(options.model, device="cpu").potential
    potential = compiled(loaded, Path(Settings().compile_cache), 1, wait=True)
    with ExitStack() as stack:
        urls = stack.enter_context(running_service("--n-threads=1", "--compile=on"))
        rest, grpc = (stack.enter_context(Client(url)) for url in urls)
        rounds = rounds_in_turn(
            {
                IN_PROCESS: in_process(direct, potential, INNER_STEPS),
                SEARCHING: in_process(direct, potential, INNER_STEPS, keeps_lists=False),
                f"{BLOCK} in this process": in_process(hybrid, potential, 1),
                f"{BLOCK} through gRPC": on_server(grpc, hybrid, options.model),
                f"{BLOCK} through REST": on_server(rest, hybrid, options.model),
                MANY: on_server(grpc, hybrid, options.model, N_BLOCKS),
            },
            options.seconds,
            n_in_a_row=IN_A_ROW,
        )
    taken = {**rounds.taken, MANY: [each / N_BLOCKS for each in rounds.taken[MANY]]}
    rounds = Rounds(taken)
    report(rounds, options.model, len(system), options.out)


def report(rounds: Rounds, model: str, n_atoms: int, out: Path) -> None:
    """Print the timings and their ratios to direct steps in this process, and write both."""
    timings = rounds.timings()
    figures = {name: rounds.ratio(name, IN_PROCESS) for name in timings}
    print(f"\n{model}, {n_atoms} atoms, ms: median (10% - 90%), over {IN_PROCESS}")
    for name, timing in timings.items():
        print(f"  {name:36}{timing}   x {figures[name].median:.3f}")
    milliseconds = {name: asdict(timing) for name, timing in timings.items()}
    record.write(
        out, "propagation", figures, model=model, n_atoms=n_atoms, milliseconds=milliseconds
    )


if __name__ == "__main__":
    main()
