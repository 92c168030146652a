"""The cost that each transport adds to a step, relative to the same evaluation in this process.

    python -m bench.measurements.overhead

The service runs in a separate process, as it does for users. Positions change at every call, as in
molecular dynamics, and the evaluation in this process keeps its neighbor list from step to step
too. Each transport takes several steps in a row, as walkers do. A step in this process followed by
a bare gRPC echo of the bytes of a step is a lower bound for any service. The model `water` is
compiled on both sides. The toy, which costs next to nothing, isolates the overhead; an HTTP
application that reads and writes as many bytes and does nothing else is its lower bound.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import httpx2
import torch

from bench.measurements.cost import walker_step
from bench.measurements.step import bytes_of_step
from bench.peers.grpc_echo import EchoClient
from bench.runner import record
from bench.runner.command_line import parser_of
from bench.runner.processes import running, running_service
from bench.runner.systems import gas, read_system, shaken
from bench.runner.timing import Rounds, Timing, rounds_in_turn
from twinforce import Client, System
from twinforce_models import registry
from twinforce_models.memory import keep_freed_memory
from twinforce_models.potential import Potential
from twinforce_models.potentials.hybrid_net.compilation.compiling import compiled
from twinforce_models.prediction import predict
from twinforce_proto import PredictRequest
from twinforce_proto.codec.messages import predict_reply_to_proto, predict_request_to_proto
from twinforce_service.settings import Settings

OUTPUTS = ("energy", "conservative_forces")
TOY = "toy:harmonic"
HERE = "in this process"
HERE_AND_ECHO = "in this process, and a gRPC echo"
# Model -> number of steps in a row before the next transport has its turn.
IN_A_ROW = {"water": 5, "toy": 25}
HTTP_ECHO = "bare HTTP echo"


def calls_of(
    model: str, potential: Potential, system: System, urls: tuple[str, str], stack: ExitStack
) -> dict[str, Callable[[], object]]:
    """Return the functions to time, by name; each draws the same sequence of positions."""
    rest_url, grpc_url = urls
    rest, grpc = stack.enter_context(Client(rest_url)), stack.enter_context(Client(grpc_url))
    json_rest = stack.enter_context(Client(rest_url, encoding="json"))
    stream = stack.enter_context(grpc.stream(model=model, outputs=OUTPUTS))
    remote: dict[str, Callable[[System], object]] = {
        "gRPC stream": stream.predict,
        "gRPC unary": lambda moved: grpc.predict(moved, OUTPUTS, model=model),
        "REST protobuf": lambda moved: rest.predict(moved, OUTPUTS, model=model),
        "REST JSON": lambda moved: json_rest.predict(moved, OUTPUTS, model=model),
    }
    calls = {HERE: walker_step(potential, system, set(OUTPUTS))}
    calls[HERE_AND_ECHO] = _and_echo(calls[HERE], system, stack)
    for name, evaluate in remote.items():
        calls[name] = moving(evaluate, system)
    return calls


def _and_echo(step: Callable[[], object], system: System, stack: ExitStack) -> Callable[[], object]:
    """Return a function that takes a step, then echoes the bytes that a remote step would move."""
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)
    same_size = gas(len(system))
    message, n_reply = bytes_of_step(same_size, shaken(same_size))
    port = int(stack.enter_context(running("bench.peers.grpc_echo")).read())
    echo = EchoClient(port, n_reply, loop)
    return lambda: (step(), echo.step(message))


def moving(evaluate: Callable[[System], object], system: System) -> Callable[[], object]:
    """Return a function that evaluates the system at other positions each time."""
    shake = shaken(system)
    return lambda: evaluate(shake())


def http_echo(potential: Potential, system: System, stack: ExitStack) -> Callable[[], object]:
    """Return a function that sends a request of the same size to an application without work."""
    request = PredictRequest("toy", (system,), frozenset(OUTPUTS))
    body = predict_request_to_proto(request).SerializeToString()
    reply = predict_reply_to_proto("toy", predict(potential, [system], set(OUTPUTS)))
    process = stack.enter_context(running("bench.peers.http_echo", str(reply.ByteSize())))
    client = stack.enter_context(httpx2.Client(trust_env=False))
    url = f"http://127.0.0.1:{process.read()}"
    return lambda: client.post(url, content=body).content


def report(model: str, n_atoms: int, rounds: Rounds) -> dict[str, object]:
    """Print a table and return its rows."""
    print(f"\n{model}, {n_atoms} atoms, ms per step: median (10% - 90%), over in-process")
    rows: dict[str, object] = {}
    for name, timing in rounds.timings().items():
        over = rounds.ratio(name, HERE)
        print(f"  {name:34}{timing}   x {over.median:.3f}")
        rows[name] = asdict(timing) | {"over_in_process": asdict(over)}
    return rows


def figures_of(rounds: Mapping[str, Rounds]) -> dict[str, Timing]:
    """Return the figures that are compared with bars."""
    water, toy = rounds["water"], rounds["toy"]
    found = {
        f"water, {name} over in-process": water.ratio(name, HERE)
        for name in water.taken
        if name != HERE
    }
    return found | {
        "toy, REST protobuf, ms": toy.timings()["REST protobuf"],
        "toy, bare HTTP echo, ms": toy.timings()[HTTP_ECHO],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/overhead.json."""
    parser = parser_of("bench.measurements.overhead", __doc__)
    parser.add_argument("--seconds", type=float, default=80.0,
                        help="duration of all rounds, a quarter of it for the toy")  # fmt: skip
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    toy = registry.load(TOY).potential
    plain = registry.load("water", device="cpu", dtype="float32").potential
    water = compiled(plain, Path(Settings().compile_cache), 1, wait=True)
    liquid = read_system()
    subjects = {"water": (water, liquid, 0.75), "toy": (toy, gas(len(liquid)), 0.25)}
    rounds: dict[str, Rounds] = {}
    with running_service("--n-threads=1", "--compile=on", f"--model=toy={TOY}") as urls:
        for model, (potential, system, share) in subjects.items():
            with ExitStack() as stack:
                calls = calls_of(model, potential, system, urls, stack)
                if model == "toy":
                    calls[HTTP_ECHO] = http_echo(potential, system, stack)
                rounds[model] = rounds_in_turn(
                    calls,
                    share * options.seconds,
                    n_warm_up=10,
                    n_in_a_row=IN_A_ROW[model],
                )
    record.write(
        options.out,
        "overhead",
        figures_of(rounds),
        n_atoms=len(liquid),
        milliseconds={model: report(model, len(liquid), each) for model, each in rounds.items()},
    )


if __name__ == "__main__":
    main()
