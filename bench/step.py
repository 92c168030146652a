"""What is between a walker and its forces: a step of a model that costs next to nothing.

    python -m bench.step

One walker on a gRPC stream, against an engine in a process of its own, one in a thread of the
service, and a bare echo of as many bytes, in turn. An ideal gas is what is evaluated: nearly
nothing; and once springs between all neighbors, which alone take as long as some echoes. Each is
called many times in a row, as a walker goes on without a pause. Then what each process spends of
the CPU, which other programs on the machine disturb less than they do the time.
"""

import argparse
import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import torch
from demo.serving import running_service

from bench import record
from bench.children import running
from bench.echo import METHOD
from bench.systems import gas, shaken
from bench.timing import Rounds, Timing, rounds_in_turn
from twinforce import AsyncClient, Client, System
from twinforce_models import registry
from twinforce_models.prediction import predict
from twinforce_proto.codec.stream import StreamEncoder, stream_reply_to_proto

TOY, SPRINGS = "toy:ideal-gas", "toy:harmonic"
OUTPUTS = ("energy", "conservative_forces")
IN_A_ROW = 50
# What the command line of each process has.
ROLES = {
    "bench.echo": "echo",
    "twinforce_service.main": "service",
    "twinforce_service.process.engine_process": "engine",
}


class Echo:
    """A client of the echo, blocking or with asyncio, that moves bytes alone."""

    def __init__(self, port: int, n_reply: int, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        address = f"127.0.0.1:{port}"
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        self._replies = grpc.insecure_channel(address).stream_stream(METHOD)(
            iter(self._queue.get, None)
        )
        self.step(bytes(n_reply))
        self._call: Any = self._loop.run_until_complete(self._open(address))
        self.step_async(bytes(n_reply))

    def step(self, message: bytes) -> bytes:
        """Send a message and wait for the reply."""
        self._queue.put(message)
        reply: bytes = next(self._replies)
        return reply

    def step_async(self, message: bytes) -> bytes:
        """Do the same with asyncio."""
        return self._loop.run_until_complete(self._step_async(message))

    async def _open(self, address: str) -> Any:
        return grpc.aio.insecure_channel(address).stream_stream(METHOD)()

    async def _step_async(self, message: bytes) -> bytes:
        await self._call.write(message)
        reply: bytes = await self._call.read()
        return reply


def bytes_of_step(system: System, moves: Callable[[], System]) -> tuple[bytes, int]:
    """Return what a step sends, and how many bytes come back."""
    encoder = StreamEncoder("toy")
    encoder.encode(system, frozenset(OUTPUTS))
    message = encoder.encode(moves(), frozenset(OUTPUTS)).SerializeToString()
    prediction = predict(registry.load(TOY).potential, [system], OUTPUTS)[0]
    return message, stream_reply_to_proto(prediction).ByteSize()


def ways(system: System, stack: ExitStack) -> dict[str, Callable[[], object]]:
    """Return the ways to make a step."""
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)
    moves = shaken(system)
    message, n_reply = bytes_of_step(system, moves)
    echo = Echo(int(stack.enter_context(running("bench.echo")).read()), n_reply, loop)
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


def cpu_seconds() -> dict[str, float]:
    """Return what this process and those that it runs have spent of the CPU, by role, in s."""
    spent: dict[str, float] = {}
    for pid in _family(os.getpid()):
        process = Path("/proc") / str(pid)
        arguments = (process / "cmdline").read_bytes().decode().split("\0")
        role = next((ROLES[each] for each in arguments if each in ROLES), "client")
        tasks = (process / "task").iterdir()
        times = [int((task / "schedstat").read_text().split()[0]) for task in tasks]
        spent[role] = spent.get(role, 0.0) + 1e-9 * sum(times)
    return spent


def _family(pid: int) -> Iterator[int]:
    """Give a process and all that descend from it."""
    yield pid
    for task in (Path("/proc") / str(pid) / "task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _family(int(child))


def cpu_per_step(step: Callable[[], object], n_steps: int) -> dict[str, float]:
    """Return what each process spends of the CPU in a step, in ms."""
    step()
    before = cpu_seconds()
    for _ in range(n_steps):
        step()
    after = cpu_seconds()
    spent = {role: 1e3 * (after[role] - before.get(role, 0.0)) / n_steps for role in after}
    return {role: value for role, value in spent.items() if value > 0.01}


def report(timings: Mapping[str, Any], cpu: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Print a table; return it."""
    rows = {}
    for name, timing in timings.items():
        base = timings["echo, asyncio" if name.endswith("asyncio") else "echo"].median
        ratio = timing.median / base
        spent = ", ".join(f"{role} {value:.2f}" for role, value in cpu[name].items())
        print(f"  {name:28}{timing}   x {ratio:.2f}   CPU {sum(cpu[name].values()):.2f} ({spent})")
        rows[name] = asdict(timing) | {"over_echo": ratio, "cpu": cpu[name]}
    return rows


def without_evaluation(rounds: Rounds) -> Timing:
    """Return how many times an echo a step takes besides the evaluation, round by round."""
    step, bare, echo = (
        np.asarray(rounds.taken[name])
        for name in ("process engine", "evaluation in this process", "echo")
    )
    return Timing.of(((step - bare) / echo).tolist())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/step.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.step", description=main.__doc__)
    parser.add_argument("--atoms", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--cpu-steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with ExitStack() as stack:
        steps = ways(gas(options.atoms), stack)
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
