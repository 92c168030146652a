"""The CPU time that a measurement and the processes that it started have used."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Argument in the command line of a process -> role of the process.
ROLES = {
    "bench.peers.grpc_echo": "echo",
    "twinforce_service.main": "service",
    "twinforce_service.process.engine_process": "engine",
}


def cpu_seconds() -> dict[str, float]:
    """Return the CPU time of this process and of all its descendants so far, by role, in s."""
    spent: dict[str, float] = {}
    for pid in _family(os.getpid()):
        process = Path("/proc") / str(pid)
        arguments = (process / "cmdline").read_bytes().decode().split("\0")
        role = next((ROLES[each] for each in arguments if each in ROLES), "client")
        tasks = (process / "task").iterdir()
        times = [int((task / "schedstat").read_text().split()[0]) for task in tasks]
        spent[role] = spent.get(role, 0.0) + 1e-9 * sum(times)
    return spent


def cpu_per_step(step: Callable[[], object], n_steps: int) -> dict[str, float]:
    """Return the CPU time of a step, by role of the process, in ms."""
    step()
    before = cpu_seconds()
    for _ in range(n_steps):
        step()
    after = cpu_seconds()
    spent = {role: 1e3 * (after[role] - before.get(role, 0.0)) / n_steps for role in after}
    return {role: value for role, value in spent.items() if value > 0.01}


def _family(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield pid
    for task in (Path("/proc") / str(pid) / "task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _family(int(child))
