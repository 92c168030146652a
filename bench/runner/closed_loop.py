"""Many concurrent walkers: each sends its next request as soon as the last one is answered."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from bench.runner.systems import shaken
from twinforce import AsyncClient, System

OUTPUTS = ("energy", "conservative_forces")
Step = Callable[[], Awaitable[object]]


async def rate(steps: Sequence[Step], seconds: float) -> float:
    """Return how many evaluations per second the walkers get together.

    Args:
        steps: The next step of each walker; awaited repeatedly.
        seconds: Time after which no step begins. Steps that have begun are completed and counted,
            and so is the time until the last of them ends.
    """
    begin = time.perf_counter()

    async def loop(step: Step) -> int:
        n_steps = 0
        while time.perf_counter() < begin + seconds:
            await step()
            n_steps += 1
        return n_steps

    counts = await asyncio.gather(*map(loop, steps))
    return sum(counts) / (time.perf_counter() - begin)


def walker(evaluate: Callable[[System], Awaitable[object]], system: System) -> Step:
    """Return a function that takes the next step of a walker."""
    shake = shaken(system)
    return lambda: evaluate(shake())


async def walkers(
    url: str, system: System, n_walkers: int, model: str, stack: AsyncExitStack
) -> list[Step]:
    """Open a gRPC stream for each walker and return the functions that take their next steps."""
    steps: list[Step] = []
    for _ in range(n_walkers):
        client = await stack.enter_async_context(AsyncClient(url))
        stream = await stack.enter_async_context(client.stream(model, OUTPUTS))
        steps.append(walker(stream.predict, system))
    return steps
