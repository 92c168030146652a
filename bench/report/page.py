"""The page docs/performance.md, written from the results alone.

python -m bench.report.page
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.report.bars import BARS, GPU_BARS, table
from bench.report.limits import bottleneck, limits
from bench.report.plots import draw
from bench.runner import record
from bench.runner.command_line import parser_of
from bench.runner.machine import ROOT

PAGE = ROOT / "docs" / "performance.md"
FILES = sorted({bar.file for bar in (*BARS, *GPU_BARS)} | {"run"})

Results = Mapping[str, Mapping[str, Any]]

_CAPTIONS = {
    "sizes": "Time of a step against the size of the system",
    "crowd": "Evaluations per second against the number of walkers",
    "step": "CPU time of a step, by process",
}
_METHOD = """\
Alternatives are called in turn within one run, and ratios are taken round by round. Each row gives
the median and, in parentheses, the middle 80% of the rounds; a bar is met if the median meets it.
Client, service and engine share the machine."""


_ABOUT_NEW_SIZES = """\
Time of the first batches of a new size (`water`, one system, conservative). The second one is
recorded as a CUDA graph; nothing is compiled for a size:"""


def write_page(results: Results, plots: Sequence[str], folder: str) -> str:
    """Return the page in Markdown.

    Args:
        results: Name of a result -> its content; empty or missing if it was not measured.
        plots: Names of the plots that exist.
        folder: Folder of the plots, relative to the page.
    """
    parts = [
        "# Performance",
        "`make bench` writes this page from [bench/results](../bench/results); do not edit it.",
        *_machine(results),
        *_run(results.get("run", {})),
        _METHOD,
        "\n".join(table(BARS, results)),
        *_not_compared(results),
        *(f"![{_CAPTIONS[name]}]({folder}/{name}.png)" for name in plots),
        *_section("Distance from the lower bound", ["\n".join(limits(results))]),
        *_section("The next bottleneck", bottleneck(results)),
        *_section("Step against size", _sizes(results.get("sizes", {}))),
        "## On a GPU",
        *_gpu(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine(results: Results) -> list[str]:
    measured = [
        content for name, content in results.items() if "machine" in content and name != "gpu"
    ]
    if not measured:
        return ["Nothing has been measured yet."]
    machines = [content["machine"] for content in measured]
    descriptions = {
        f"{machine['processor']}, {machine['n_cores']} cores, {machine['n_threads']} thread for "
        f"the model; Python {machine['python']}, torch {machine['torch']}, "
        f"grpcio {machine['grpcio']}, TwinForce {machine['twinforce']}"
        for machine in machines
    }
    days = sorted({content["measured"][:10] for content in measured})
    return [f"{'; and '.join(sorted(descriptions))}. Measured on {' and '.join(days)}."]


def _run(run: Mapping[str, Any]) -> list[str]:
    """Return sentences on the load of the machine and on failed measurements."""
    if not run:
        return []
    rows = ", ".join(f"`{name}` {row['load_before']:.1f}" for name, row in run["rows"].items())
    failed = {name: row["failed"] for name, row in run["rows"].items() if row["failed"]}
    return [
        f"The load average of the machine over the minute before the run was "
        f"{run['load_before']:.1f}; above 0.5, other programs make the times too long. Load "
        f"average before each measurement, including the one that ran before it: {rows}.",
        *(f"`{name}` failed: {reason}." for name, reason in failed.items()),
    ]


def _not_compared(results: Results) -> list[str]:
    reason = results.get("crowd", {}).get("not_compared")
    return [f"There is no comparison with Ray Serve: {reason}."] if reason else []


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
    return ["\n".join(rows), f"Fitted lines: {lines}."]


def _gpu(results: Results) -> list[str]:
    content = results.get("gpu", {})
    if not content.get("figures"):
        reason = content.get("skipped", "it was not run")
        command = "python -m bench.measurements.gpu"
        return [f"Not measured: {reason}. `{command}` runs all measurements on a GPU."]
    machine = content["machine"]
    device = f"{content['device']}, torch {machine['torch']}, {content['measured'][:10]}."
    parts = [f"{device} {content.get('note', '')}".strip(), "\n".join(table(GPU_BARS, results))]
    rows = ["| systems | direct | conservative | hybrid |", "| --- | --- | --- | --- |"]
    scaling = content["us_per_atom_and_step"]
    for n_systems in scaling["direct"]:
        cells = [
            f"{scaling[kind][n_systems]['median']:.3f}" if n_systems in scaling[kind] else ""
            for kind in ("direct", "conservative", "hybrid")
        ]
        rows.append(f"| {n_systems} | {' | '.join(cells)} |")
    parts += ["µs per atom and step of `water`, 192 atoms per system:", "\n".join(rows)]
    if new_sizes := content.get("new_sizes_ms"):
        parts += [_ABOUT_NEW_SIZES, "\n".join(_new_sizes(new_sizes))]
    parts += [_served(content["served"], content["n_walkers"])]
    for name, profile in content["profiles"].items():
        parts.append(
            f"{name}: {profile['ms_per_step']:.2f} ms on the device, {profile['search']:.1%} of it "
            "for the neighbor search."
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
    sentences = [
        f"With `{model}`, a step of one walker takes {each['ms']['median']:.2f} ms, and "
        f"{n_walkers} walkers get {each['evaluations/s']['median']:.0f} evaluations/s together."
        for model, each in found.items()
    ]
    method = "Walkers were also measured through a service on the same machine, over gRPC streams."
    return " ".join([method, *sentences])


def main(arguments: Sequence[str] | None = None) -> None:
    """Write docs/performance.md and its plots."""
    parser = parser_of("bench.report.page", __doc__)
    parser.add_argument(
        "--results", type=Path, default=record.RESULTS, help="folder of the results"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="page to write")
    options = parser.parse_args(arguments)
    results = {name: record.read(options.results, name) for name in FILES}
    folder = options.page.with_suffix("")
    plots = draw(results, folder)
    options.page.write_text(write_page(results, plots, folder.name))
    print(f"written to {options.page}")


if __name__ == "__main__":
    main()
