"""The bars: what is measured, where its figure is, and what it has to reach."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.record import figure
from bench.timing import Timing


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of the table.

    Attributes:
        what: What is measured, in words.
        file: Of the results, without its ending.
        figure: Its name in there.
        limit: What the median has to keep to; None where it is only told.
        is_most: Whether the limit is the most it may be; otherwise, the least.
        form: How a value is written, without its unit.
        unit: What is written after it.
    """

    what: str
    file: str
    figure: str
    limit: float | None
    is_most: bool = True
    form: str = "{:.2f}"
    unit: str = "×"

    def written_limit(self) -> str:
        """Return the limit as the table says it."""
        if self.limit is None:
            return "none"
        return f"{'≤' if self.is_most else '≥'} {self.form.format(self.limit)}{self.unit}"

    def written(self, timing: Timing | None) -> str:
        """Return what was measured as the table says it."""
        if timing is None:
            return "not measured"
        median, low, high = map(self.form.format, (timing.median, timing.low, timing.high))
        return f"{median}{self.unit} ({low} to {high})"

    def verdict(self, timing: Timing | None) -> str:
        """Return whether the median keeps to the limit."""
        if timing is None or self.limit is None:
            return ""
        kept = timing.median <= self.limit if self.is_most else timing.median >= self.limit
        return "met" if kept else "**missed**"


BARS = (
    Bar("one walker, ideal gas, 64 atoms, gRPC stream: step over a bare echo of the same bytes",
        "step", "over echo", 1.5),
    Bar("the same, client with asyncio", "step", "over echo, asyncio", 1.5),
    Bar("the same, blocking client, less the evaluation in process", "step",
        "over echo, less the evaluation", None),
    Bar("the same with springs between neighbors, evaluation and all", "step", "over echo, springs",
        None),
    Bar("one walker, `water`, 192 atoms, conservative: remote step over in-process step",
        "overhead", "water, gRPC stream over in-process", 1.05, form="{:.3f}"),
    Bar("the least: a step in process and a bare gRPC echo of its bytes, over the step", "overhead",
        "water, in this process, and a gRPC echo over in-process", None, form="{:.3f}"),
    Bar("REST protobuf, toy, 192 atoms", "overhead", "toy, REST protobuf, ms", 4.0,
        form="{:.2f}", unit=" ms"),
    Bar("compiled over plain, direct: times as fast", "cost", "plain over compiled, direct", 2.5,
        is_most=False),
    Bar("compiled over plain, conservative: times as fast", "cost",
        "plain over compiled, conservative", 2.5, is_most=False),
    Bar("32 walkers × 8 atoms, toy: evaluations/s", "crowd", "evaluations/s", 1000.0,
        is_most=False, form="{:.0f}", unit="/s"),
    Bar("full batches of as many in one process, with nothing between", "crowd",
        "full batches in process, evaluations/s", None, form="{:.0f}", unit="/s"),
    Bar("32 walkers through TwinForce over a Ray Serve `@serve.batch` deployment", "crowd",
        "over Ray Serve", 5.0, is_most=False),
    Bar("16 walkers × 192 atoms, `water`: throughput over full batches in one process", "walkers",
        "over full batches", 0.95, is_most=False, form="{:.3f}"),
    Bar("hybrid call over conservative call, compiled", "cost",
        "hybrid over conservative, compiled", 1.05, form="{:.3f}"),
    Bar("block of MTS-8 through `Propagate` over 8 direct steps in process", "propagation",
        "block of M = 8 through gRPC", 1.25),
    Bar("the same, four blocks in a call", "propagation", "block of M = 8, each of 4 in a call",
        None),
    Bar("the least: the same block in process", "propagation", "block of M = 8 in this process",
        None),
    Bar("step against size, 54 to 20,577 atoms: direct, deviation from a line", "sizes",
        "direct, deviation from a line", 0.2, form="{:.1%}", unit=""),
    Bar("the same, conservative", "sizes", "conservative, deviation from a line", 0.2,
        form="{:.1%}", unit=""),
    Bar("memory per atom, conservative", "sizes", "memory per atom, KB", None, form="{:.0f}",
        unit=" KB"),
    Bar("8 busy walkers beside 1,000 idle streams: slow-down", "idle", "slow-down", 1.05,
        form="{:.3f}"),
)  # fmt: skip

GPU_BARS = (
    Bar("PET like pet-mad-s, one walker: times as fast as `MetatomicCalculator`", "gpu",
        "PET, calculator over one walker", 2.0, is_most=False),
    Bar("the same, through a service over gRPC", "gpu", "PET, calculator over one served walker",
        2.0, is_most=False),
    Bar("32 walkers in a batch: times the throughput of its steps one after another", "gpu",
        "PET, calculator over all walkers", 10.0, is_most=False),
    Bar("32 walkers through a service over gRPC: the same", "gpu",
        "PET, calculator over all served walkers", 10.0, is_most=False),
    Bar("`water`, conservative, best batch", "gpu", "µs per atom and step, conservative", None,
        form="{:.3f}", unit=" µs/atom/step"),
    Bar("utilisation, PET, 32 walkers", "gpu", "utilisation, PET, %", None, form="{:.0f}",
        unit="%"),
    Bar("utilisation, `water`, 32 walkers", "gpu", "utilisation, water, %", None, form="{:.0f}",
        unit="%"),
)  # fmt: skip


def table(bars: tuple[Bar, ...], results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a table in Markdown, one row for each bar.

    Args:
        bars: The rows.
        results: What `record.read` gave, by file.
    """
    lines = ["| what | bar | measured | |", "| --- | --- | --- | --- |"]
    for bar in bars:
        found = figure(results.get(bar.file, {}), bar.figure)
        cells = (bar.what, bar.written_limit(), bar.written(found), bar.verdict(found))
        lines.append(f"| {' | '.join(cells)} |")
    return lines
