"""The time between a walker and its forces: a step of a model that costs next to nothing.

    python -m bench.measurements.step

One walker on a gRPC stream calls a service with its engine in a separate process, a service with
its engine in a thread, and a bare echo of as many bytes, in turn. The model is an ideal gas, whose
evaluation takes almost no time; one row uses springs between all neighbors, which take as long as
several echoes. Each is called many times in a row, because a walker steps without a pause. After
that, the CPU time of a step is measured in each process: other programs on the machine disturb it
less than they disturb the elapsed time.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.peers.grpc_echo import EchoClient
from bench.runner import record
from bench.runner.command_line import parser_of
from bench.runner.cpu import cpu_per_step
from bench.runner.processes import running, running_service
from bench.runner.systems import gas, shaken
from bench.runner.timing import Rounds, Timing, rounds_in_turn
from twinforce import AsyncClient, Client, System
from twinforce_models import registry
from twinforce_models.prediction import predict
from twinforce_proto.codec.stream import StreamEncoder, stream_reply_to_proto

TOY, SPRINGS = "toy:ideal-gas", "toy:harmonic"
OUTPUTS = ("energy", "conservative_forces")
IN_A_ROW = 50


def bytes_of_step(system: System, moves: Callable[[], System]) -> tuple[bytes, int]:
    """Return the message that a step sends and the number of bytes in the reply."""
    encoder = StreamEncoder("toy")
    encoder.encode(system, frozenset(OUTPUTS))
    message = encoder.encode(moves(), frozenset(OUTPUTS)).SerializeToString()
    prediction = predict(registry.load(TOY).potential, [system], OUTPUTS)[0]
    return message, stream_reply_to_proto(prediction).ByteSize()


def steps_of(system: System, stack: ExitStack) -> dict[str, Callable[[], object]]:
    """Return the functions that take a step, by name."""
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)
    moves = shaken(system)
    message, n_reply = bytes_of_step(system, moves)
    port = int(stack.enter_context(running("bench.peers.grpc_echo")).read())
    echo = EchoClient(port, n_reply, loop)
    gas_alone, springs_alone = (registry.load(each).potential for each in (TOY, SPRINGS))
    found: dict[str, Callable[[], object]] = {
        "echo": lambda: echo.step(message),
        "echo, asyncio": lambda: echo.step_async(message),
        "evaluation in this process": lambda: predict(gas_alone, [moves()], OUTPUTS),
        "springs in this process": lambda: predict(springs_alone, [moves()], OUTPUTS),
    }
    for engine in ("thread", "process"):
        models = (f"--model=toy={TOY}", f"--model=springs={SPRINGS}")
        flags = ("--n-threads=1", "--no-water", *models, f"--engine={engine}")
        _, url = stack.enter_context(running_service(*flags))
        stream = stack.enter_context(Client(url).stream("toy", OUTPUTS))
        found[f"{engine} engine"] = lambda stream=stream: stream.predict(moves())
        walker = AsyncClient(url).stream("toy", OUTPUTS)
        found[f"{engine} engine, asyncio"] = lambda walker=walker: loop.run_until_complete(
            walker.predict(moves())
        )
    springs = stack.enter_context(Client(url).stream("springs", OUTPUTS))
    found["process engine, springs"] = lambda: springs.predict(moves())
    return found


def report(timings: Mapping[str, Any], cpu: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Print a table and return its rows."""
    rows = {}
    for name, timing in timings.items():
        base = timings["echo, asyncio" if name.endswith("asyncio") else "echo"].median
        ratio = timing.median / base
        spent = ", ".join(f"{role} {value:.2f}" for role, value in cpu[name].items())
        print(f"  {name:28}{timing}   x {ratio:.2f}   CPU {sum(cpu[name].values()):.2f} ({spent})")
        rows[name] = asdict(timing) | {"over_echo": ratio, "cpu": cpu[name]}
    return rows


def without_evaluation(rounds: Rounds) -> Timing:
    """Return the time of a step without its evaluation, over that of an echo, round by round."""
    step, bare, echo = (
        np.asarray(rounds.taken[name])
        for name in ("process engine", "evaluation in this process", "echo")
    )
    return Timing.of(((step - bare) / echo).tolist())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/step.json."""
    parser = parser_of("bench.measurements.step", __doc__)
    parser.add_argument("--atoms", type=int, default=64, help="number of atoms of the system")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of all rounds")
    parser.add_argument("--cpu-steps", type=int, default=300,
                        help="number of steps for the CPU time of each row")  # fmt: skip
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with ExitStack() as stack:
        steps = steps_of(gas(options.atoms), stack)
        rounds = rounds_in_turn(steps, options.seconds, n_warm_up=20, n_in_a_row=IN_A_ROW)
        cpu = {name: cpu_per_step(step, options.cpu_steps) for name, step in steps.items()}
    print(f"\none walker, {options.atoms} atoms, ms per step: median (10% - 90%), over the echo")
    rows = report(rounds.timings(), cpu)
    figures = {
        "over echo": rounds.ratio("process engine", "echo"),
        "over echo, asyncio": rounds.ratio("process engine, asyncio", "echo, asyncio"),
        "over echo, less the evaluation": without_evaluation(rounds),
        "over echo, springs": rounds.ratio("process engine, springs", "echo"),
    }
    details = {"n_atoms": options.atoms, "n_in_a_row": IN_A_ROW}
    record.write(options.out, "step", figures, **details, milliseconds=rows)


if __name__ == "__main__":
    main()
