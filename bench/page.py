"""The page about performance, written from the results and nothing else.

python -m bench.page
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import record
from bench.bars import BARS, GPU_BARS, table
from bench.limits import bottleneck, limits
from bench.machine import ROOT
from bench.plots import draw

PAGE = ROOT / "docs" / "performance.md"
FILES = sorted({bar.file for bar in (*BARS, *GPU_BARS)} | {"run"})

Results = Mapping[str, Mapping[str, Any]]

_CAPTIONS = {
    "sizes": "Time of a step against the size of the system",
    "crowd": "Evaluations per second against the number of walkers",
    "step": "CPU time of a step, by process",
}
_HOW = """\
What is compared is measured in one run and called in turn, and ratios are taken round by round.
Told are the median and, in brackets, the middle 80% of the rounds; a row is met if its median is.
Client, service and engine share the machine."""


_ABOUT_NEW_SIZES = """\
The first batches of a new size, the second of which is recorded as a CUDA graph (`water`, one
system, conservative); nothing is ever compiled for a size:"""


def write_page(results: Results, plots: Sequence[str], folder: str) -> str:
    """Return the page in Markdown.

    Args:
        results: What `record.read` gave, by file; what was not measured is empty or missing.
        plots: Names of those that were drawn.
        folder: Where they are, as seen from the page.
    """
    parts = [
        "# Performance",
        "Written by `make bench` from [bench/results](../bench/results); do not edit it by hand.",
        *_where(results),
        *_run(results.get("run", {})),
        _HOW,
        "\n".join(table(BARS, results)),
        *_not_compared(results),
        *(f"![{_CAPTIONS[name]}]({folder}/{name}.png)" for name in plots),
        *_section("Against the limit", ["\n".join(limits(results))]),
        *_section("The next bottleneck", bottleneck(results)),
        *_section("Step against size", _sizes(results.get("sizes", {}))),
        "## On a GPU",
        *_gpu(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _where(results: Results) -> list[str]:
    measured = [
        content for name, content in results.items() if "machine" in content and name != "gpu"
    ]
    if not measured:
        return ["Nothing was measured yet."]
    machines = [content["machine"] for content in measured]
    ways = {
        f"{machine['processor']}, {machine['n_cores']} cores, {machine['n_threads']} thread for "
        f"the model; Python {machine['python']}, torch {machine['torch']}, "
        f"grpcio {machine['grpcio']}, TwinForce {machine['twinforce']}"
        for machine in machines
    }
    days = sorted({content["measured"][:10] for content in measured})
    return [f"{'; and '.join(sorted(ways))}. Measured on {' and '.join(days)}."]


def _run(run: Mapping[str, Any]) -> list[str]:
    """Tell how quiet the machine was, and what failed."""
    if not run:
        return []
    rows = ", ".join(f"`{name}` {row['load_before']:.1f}" for name, row in run["rows"].items())
    failed = {name: row["failed"] for name, row in run["rows"].items() if row["failed"]}
    return [
        f"Load average of the minute before the run: {run['load_before']:.1f}; above 0.5 the "
        "machine was not quiet, and times are too long. Before each part, with what the part "
        f"before it left: {rows}.",
        *(f"`{name}` failed: {reason}." for name, reason in failed.items()),
    ]


def _not_compared(results: Results) -> list[str]:
    reason = results.get("crowd", {}).get("not_compared")
    return [f"Ray Serve was not compared: {reason}."] if reason else []


def _section(title: str, parts: Sequence[str]) -> list[str]:
    return [f"## {title}", *parts] if any(parts) else []


def _sizes(content: Mapping[str, Any]) -> list[str]:
    if not content:
        return []
    rows = ["| atoms | direct, ms | conservative, ms | memory, MB |", "| --- | --- | --- | --- |"]
    for size, grown in content["memory_bytes"].items():
        direct, conservative = (
            content["milliseconds"][f"{kind} {size}"] for kind in ("direct", "conservative")
        )
        cells = [
            f"{each['median']:.1f} ({each['low']:.1f}-{each['high']:.1f})"
            for each in (direct, conservative)
        ]
        rows.append(f"| {int(size):,} | {' | '.join(cells)} | {grown / 1e6:.0f} |")
    lines = ", ".join(
        f"{kind} {line['fixed_ms']:.1f} ms + {line['us_per_atom']:.1f} µs per atom"
        for kind, line in content["lines"].items()
    )
    return ["\n".join(rows), f"Straight lines: {lines}."]


def _gpu(results: Results) -> list[str]:
    content = results.get("gpu", {})
    if not content.get("figures"):
        why = content.get("skipped", "it was not run")
        return [f"Not measured: {why}. `python -m bench.gpu` measures all of it as one script."]
    machine = content["machine"]
    where = f"{content['device']}, torch {machine['torch']}, {content['measured'][:10]}."
    parts = [f"{where} {content.get('note', '')}".strip(), "\n".join(table(GPU_BARS, results))]
    rows = ["| systems | direct | conservative | hybrid |", "| --- | --- | --- | --- |"]
    scaling = content["us_per_atom_and_step"]
    for n_systems in scaling["direct"]:
        cells = [
            f"{scaling[kind][n_systems]['median']:.3f}" if n_systems in scaling[kind] else ""
            for kind in ("direct", "conservative", "hybrid")
        ]
        rows.append(f"| {n_systems} | {' | '.join(cells)} |")
    parts += ["µs per atom and step of `water`, 192 atoms a system:", "\n".join(rows)]
    if new_sizes := content.get("new_sizes_ms"):
        parts += [_ABOUT_NEW_SIZES, "\n".join(_new_sizes(new_sizes))]
    parts += [_served(content["served"], content["n_walkers"])]
    for name, profile in content["profiles"].items():
        parts.append(
            f"{name}: {profile['ms_per_step']:.2f} ms of the device, the search for neighbors "
            f"{profile['search']:.1%} of it."
        )
        lines = [f"| {name} | share | ms per step |", "| --- | --- | --- |"]
        lines += [
            f"| `{row['operation'][:80].replace('|', '/')}` | {row['share']:.1%} "
            f"| {row['ms_per_step']:.3f} |"
            for row in profile["operations"]
        ]
        parts.append("\n".join(lines))
    return parts


def _new_sizes(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    rows = ["| atoms | first, ms | second, ms | later, ms |", "| --- | --- | --- | --- |"]
    return rows + [
        f"| {size} | {each['first']:.1f} | {each['second']:.1f} | {each['later']:.2f} |"
        for size, each in found.items()
    ]


def _served(found: Mapping[str, Any], n_walkers: int) -> str:
    said = [
        f"`{model}`: a step of one walker takes {each['ms']['median']:.2f} ms, {n_walkers} walkers "
        f"get {each['evaluations/s']['median']:.0f} evaluations/s together"
        for model, each in found.items()
    ]
    return f"Through a service on the same machine, over gRPC streams: {'; '.join(said)}."


def main(arguments: Sequence[str] | None = None) -> None:
    """Write docs/performance.md and its plots."""
    parser = argparse.ArgumentParser(prog="python -m bench.page", description=main.__doc__)
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    results = {name: record.read(options.results, name) for name in FILES}
    folder = options.page.with_suffix("")
    plots = draw(results, folder)
    options.page.write_text(write_page(results, plots, folder.name))
    print(f"written to {options.page}")


if __name__ == "__main__":
    main()
