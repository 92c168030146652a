"""Many walkers at once: closed loops, each of which asks again as soon as it is answered."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from bench.systems import shaken
from twinforce import AsyncClient, System

OUTPUTS = ("energy", "conservative_forces")
Step = Callable[[], Awaitable[object]]


async def rate(steps: Sequence[Step], seconds: float) -> float:
    """Return how many evaluations a second these walkers get together.

    Args:
        steps: One for each walker; awaited again and again.
        seconds: After which no step begins any more; those that have begun count whole, with
            the time until the last of them.
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
    """Return what takes the next step of a walker."""
    shake = shaken(system)
    return lambda: evaluate(shake())


async def walkers(
    url: str, system: System, n_walkers: int, model: str, stack: AsyncExitStack
) -> list[Step]:
    """Open a gRPC stream for each walker; return what takes its next step."""
    steps: list[Step] = []
    for _ in range(n_walkers):
        client = await stack.enter_async_context(AsyncClient(url))
        stream = await stack.enter_async_context(client.stream(model, OUTPUTS))
        steps.append(walker(stream.predict, system))
    return steps
