"""The same model behind Ray Serve with its batching, and walkers that call it.

    python -m bench.peers.ray_serve WALKERS ATOMS

The command prints the names of its settings once it serves. Then, for each line
"SETTING SECONDS", it lets the walkers run and prints how many evaluations per second they got
together. It ends when its input ends.
"""

import asyncio
import logging
import os
import sys
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
import torch
from ray import serve

from bench.runner.closed_loop import OUTPUTS, Step, rate, walker
from bench.runner.systems import gas
from twinforce import Prediction, System
from twinforce_models import registry
from twinforce_models.memory import keep_freed_memory
from twinforce_models.prediction import predict

TOY = "toy:harmonic"
MAX_BATCH = 32
# Setting -> seconds to wait for more systems; 0.01 s is the default of Ray Serve.
WAITS = {"Ray Serve without a wait": 0.0, "Ray Serve": 0.01}


def deployed(name: str, wait: float) -> Any:
    """Deploy the model and return the handle to call."""

    @serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
    class RayDeployment:
        """The model, in one replica."""

        def __init__(self) -> None:
            keep_freed_memory()
            torch.set_num_threads(1)
            self._potential = registry.load(TOY).potential

        @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=wait)
        async def predict(self, systems: list[System]) -> list[Prediction]:
            """Evaluate a batch."""
            return predict(self._potential, systems, set(OUTPUTS))

        async def __call__(self, system: System) -> Prediction:
            """Evaluate a system, in a batch with systems of other calls."""
            prediction: Prediction = await self.predict(system)
            return prediction

    route = name.lower().replace(" ", "-")
    return serve.run(RayDeployment.bind(), name=route, route_prefix=f"/{route}")


def walkers_of(handle: Any, system: System, n_walkers: int) -> list[Step]:
    """Return the functions that take the next step of each walker."""

    async def evaluate(system: System) -> object:
        return await handle.remote(system)

    return [walker(evaluate, system) for _ in range(n_walkers)]


async def answer(steps: dict[str, list[Step]]) -> None:
    """Measure the rates that the lines on standard input request."""
    print(",".join(steps), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, _, seconds = line.strip().rpartition(" ")
        print(await rate(steps[name], float(seconds)), flush=True)


def main() -> None:
    """Deploy the model with each setting, then answer until the input ends."""
    n_walkers, n_atoms = map(int, sys.argv[1:])
    ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    try:
        system = gas(n_atoms)
        steps = {
            name: walkers_of(deployed(name, wait), system, n_walkers)
            for name, wait in WAITS.items()
        }
        asyncio.run(answer(steps))
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
