"""The difference between measured times and their lower bounds."""

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Mapping[str, Any]]

HEADER = ["| | lower bound, ms | TwinForce, ms | difference, ms |", "| --- | --- | --- | --- |"]


def limits(results: Results) -> list[str]:
    """Return a table in Markdown of lower bounds, measured medians and their differences."""
    rows = [_row(name, *found) for name, found in _pairs(results)]
    return [*HEADER, *rows] if rows else []


def bottleneck(results: Results) -> list[str]:
    """Return a sentence on the CPU time of a step, and the process that adds most to it."""
    rows = results.get("step", {}).get("milliseconds", {})
    if "process engine, asyncio" not in rows or "evaluation in this process" not in rows:
        return []
    spent = rows["process engine, asyncio"]["cpu"]
    bare = rows["evaluation in this process"]["median"]
    echo = rows["echo, asyncio"]["cpu"]
    added = {
        "client": spent.get("client", 0.0) - echo.get("client", 0.0),
        "service": spent.get("service", 0.0) - echo.get("echo", 0.0),
        "engine": spent.get("engine", 0.0) - bare,
    }
    by_role = ", ".join(f"{role} {value:.2f} ms" for role, value in added.items())
    largest = max(added, key=lambda role: added[role])
    return [
        f"A step of the toy with 64 atoms (asyncio client) uses {sum(spent.values()):.2f} ms of "
        "CPU time in three processes. Without the evaluation, and without the CPU time of the "
        f"client and the server of a bare echo, this leaves {by_role}. The next bottleneck is the "
        f"**{largest}**."
    ]


def _pairs(results: Results) -> list[tuple[str, tuple[float, float]]]:
    """Return descriptions of what was measured, with the lower bound and the median of each."""
    found: list[tuple[str, tuple[float, float]]] = []
    overhead = results.get("overhead", {}).get("milliseconds", {})
    if "water" in overhead:
        water = {name: row["median"] for name, row in overhead["water"].items()}
        for name in ("gRPC stream", "REST protobuf"):
            text = f"`water`, 192 atoms: in-process step; {name}"
            found.append((text, (water["in this process"], water[name])))
    if "toy" in overhead:
        toy = {name: row["median"] for name, row in overhead["toy"].items()}
        bare = toy["bare HTTP echo"] + toy["in this process"]
        text = "toy, 192 atoms: HTTP echo plus evaluation; REST protobuf"
        found.append((text, (bare, toy["REST protobuf"])))
    step = {
        name: row["median"] for name, row in results.get("step", {}).get("milliseconds", {}).items()
    }
    if step:
        bare = step["echo"] + step["evaluation in this process"]
        text = "toy, 64 atoms: gRPC echo plus evaluation; gRPC stream"
        found.append((text, (bare, step["process engine"])))
    blocks = results.get("propagation", {}).get("milliseconds", {})
    if blocks:
        names = ("block of M = 8 in this process", "block of M = 8 through gRPC")
        here, there = (blocks[name]["median"] for name in names)
        found.append(("`water`, block of MTS-8: in process; `Propagate`", (here, there)))
    return found


def _row(name: str, bound: float, ours: float) -> str:
    difference = f"{ours - bound:.2f} ({ours / bound - 1.0:+.1%})"
    return f"| {name} | {bound:.2f} | {ours:.2f} | {difference} |"
