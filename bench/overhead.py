"""What the network adds to a step: the same evaluation in this process and over each transport.

    python -m bench.overhead

The service runs as a process of its own, as it does for users. Positions change at every call, as
they do in molecular dynamics, and in this process too the neighbor list is kept from step to step.
Each way makes some steps in a row, as walkers do. What no service can do without is a step in this
process and a bare gRPC echo of the bytes of a step, one after the other.
The model `water` is compiled here as it is there. The near-free toy shows the overhead bare, beside
an application that reads the same bytes over HTTP and answers as many, and does nothing else.
"""

import argparse
import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import httpx2
import torch
from demo.serving import running_service

from bench import record
from bench.children import running
from bench.cost import walk
from bench.step import Echo, bytes_of_step
from bench.systems import gas, read_system, shaken
from bench.timing import Rounds, Timing, rounds_in_turn
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
# Steps that a walker makes before the next way has its turn.
IN_A_ROW = {"water": 5, "toy": 25}
HTTP_ECHO = "bare HTTP echo"


def calls_of(
    model: str, potential: Potential, system: System, urls: tuple[str, str], stack: ExitStack
) -> dict[str, Callable[[], object]]:
    """Return the ways to evaluate the system; each draws the same positions."""
    rest_url, grpc_url = urls
    rest, grpc = stack.enter_context(Client(rest_url)), stack.enter_context(Client(grpc_url))
    json_rest = stack.enter_context(Client(rest_url, encoding="json"))
    stream = stack.enter_context(grpc.stream(model=model, outputs=OUTPUTS))
    ways: dict[str, Callable[[System], object]] = {
        "gRPC stream": stream.predict,
        "gRPC unary": lambda moved: grpc.predict(moved, OUTPUTS, model=model),
        "REST protobuf": lambda moved: rest.predict(moved, OUTPUTS, model=model),
        "REST JSON": lambda moved: json_rest.predict(moved, OUTPUTS, model=model),
    }
    calls = {HERE: walk(potential, system, set(OUTPUTS))}
    calls[HERE_AND_ECHO] = _and_echo(calls[HERE], system, stack)
    for name, way in ways.items():
        calls[name] = moving(way, system)
    return calls


def _and_echo(step: Callable[[], object], system: System, stack: ExitStack) -> Callable[[], object]:
    """Return a step and then an echo of what a remote one would send and get."""
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)
    message, n_reply = bytes_of_step(as_many := gas(len(system)), shaken(as_many))
    echo = Echo(int(stack.enter_context(running("bench.echo")).read()), n_reply, loop)
    return lambda: (step(), echo.step(message))


def moving(way: Callable[[System], object], system: System) -> Callable[[], object]:
    """Return what evaluates the system in this way, at other positions each time."""
    shake = shaken(system)
    return lambda: way(shake())


def http_echo(potential: Potential, system: System, stack: ExitStack) -> Callable[[], object]:
    """Return a request to an application without work: the same bytes there and back."""
    request = PredictRequest("toy", (system,), frozenset(OUTPUTS))
    body = predict_request_to_proto(request).SerializeToString()
    reply = predict_reply_to_proto("toy", predict(potential, [system], set(OUTPUTS)))
    child = stack.enter_context(running("bench.http_echo", str(reply.ByteSize())))
    client = stack.enter_context(httpx2.Client(trust_env=False))
    url = f"http://127.0.0.1:{child.read()}"
    return lambda: client.post(url, content=body).content


def told(model: str, n_atoms: int, rounds: Rounds) -> dict[str, object]:
    """Print a table; return it."""
    print(f"\n{model}, {n_atoms} atoms, ms per step: median (10% - 90%), over in-process")
    rows: dict[str, object] = {}
    for name, timing in rounds.timings().items():
        over = rounds.ratio(name, HERE)
        print(f"  {name:34}{timing}   x {over.median:.3f}")
        rows[name] = asdict(timing) | {"over_in_process": asdict(over)}
    return rows


def figures_of(rounds: Mapping[str, Rounds]) -> dict[str, Timing]:
    """Return what is compared with the bars."""
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
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=80.0, help="a quarter of it for the toy")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
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
        milliseconds={model: told(model, len(liquid), each) for model, each in rounds.items()},
    )


if __name__ == "__main__":
    main()
