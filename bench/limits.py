"""How far from the limit: what is measured beside the bare model, and what is between."""

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Mapping[str, Any]]

HEADER = ["| | bare, ms | ours, ms | between, ms |", "| --- | --- | --- | --- |"]


def limits(results: Results) -> list[str]:
    """Return a table in Markdown: what is bare, what is ours, and what is between the medians."""
    rows = [_row(name, *found) for name, found in _pairs(results)]
    return [*HEADER, *rows] if rows else []


def bottleneck(results: Results) -> list[str]:
    """Return what a step spends of the CPU beside the evaluation, and which process most."""
    rows = results.get("step", {}).get("milliseconds", {})
    if "process engine, asyncio" not in rows or "evaluation in this process" not in rows:
        return []
    spent = rows["process engine, asyncio"]["cpu"]
    bare = rows["evaluation in this process"]["median"]
    echo = rows["echo, asyncio"]["cpu"]
    over = {
        "client": spent.get("client", 0.0) - echo.get("client", 0.0),
        "service": spent.get("service", 0.0) - echo.get("echo", 0.0),
        "engine": spent.get("engine", 0.0) - bare,
    }
    said = ", ".join(f"{role} {value:.2f} ms" for role, value in over.items())
    most = max(over, key=lambda role: over[role])
    return [
        f"A step of the toy with 64 atoms (client with asyncio) spends "
        f"{sum(spent.values()):.2f} ms of CPU in three processes. Beyond what an echo's client and "
        f"server spend, and the evaluation itself: {said}. The next bottleneck is the **{most}**."
    ]


def _pairs(results: Results) -> list[tuple[str, tuple[float, float]]]:
    """Return what can be told: words, and the medians of what is bare and what is ours."""
    found: list[tuple[str, tuple[float, float]]] = []
    overhead = results.get("overhead", {}).get("milliseconds", {})
    if "water" in overhead:
        water = {name: row["median"] for name, row in overhead["water"].items()}
        for name in ("gRPC stream", "REST protobuf"):
            text = f"`water`, 192 atoms: step in process; over {name}"
            found.append((text, (water["in this process"], water[name])))
    if "toy" in overhead:
        toy = {name: row["median"] for name, row in overhead["toy"].items()}
        bare = toy["bare HTTP echo"] + toy["in this process"]
        text = "toy, 192 atoms: HTTP echo and evaluation; over REST protobuf"
        found.append((text, (bare, toy["REST protobuf"])))
    step = {
        name: row["median"] for name, row in results.get("step", {}).get("milliseconds", {}).items()
    }
    if step:
        bare = step["echo"] + step["evaluation in this process"]
        text = "toy, 64 atoms: gRPC echo and evaluation; over gRPC stream"
        found.append((text, (bare, step["process engine"])))
    blocks = results.get("propagation", {}).get("milliseconds", {})
    if blocks:
        names = ("block of M = 8 in this process", "block of M = 8 through gRPC")
        here, there = (blocks[name]["median"] for name in names)
        found.append(("`water`, block of MTS-8 in process; through `Propagate`", (here, there)))
    return found


def _row(name: str, bare: float, ours: float) -> str:
    return f"| {name} | {bare:.2f} | {ours:.2f} | {ours - bare:.2f} ({ours / bare - 1.0:+.1%}) |"
