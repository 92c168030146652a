"""The bars: the figures that the page shows, and the limits that they have to keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.runner.record import figure
from bench.runner.timing import Timing


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of the table.

    Attributes:
        title: Description of the figure.
        file: Name of the result, without its ending.
        figure: Name of the figure in the result.
        limit: Limit for the median. None: the figure has no limit.
        is_upper: True if the limit is an upper one.
        form: Format of a value, without its unit.
        unit: Unit, written after the value.
    """

    title: str
    file: str
    figure: str
    limit: float | None
    is_upper: bool = True
    form: str = "{:.2f}"
    unit: str = "×"

    def written_limit(self) -> str:
        """Return the limit as text."""
        if self.limit is None:
            return "none"
        return f"{'≤' if self.is_upper else '≥'} {self.form.format(self.limit)}{self.unit}"

    def written(self, timing: Timing | None) -> str:
        """Return the measured value as text."""
        if timing is None:
            return "not measured"
        median, low, high = map(self.form.format, (timing.median, timing.low, timing.high))
        return f"{median}{self.unit} ({low} to {high})"

    def verdict(self, timing: Timing | None) -> str:
        """Return whether the median keeps the limit, as text."""
        if timing is None or self.limit is None:
            return ""
        kept = timing.median <= self.limit if self.is_upper else timing.median >= self.limit
        return "met" if kept else "**missed**"


BARS = (
    Bar("one walker, ideal gas, 64 atoms, gRPC stream: step over a bare echo of the same bytes",
        "step", "over echo", 1.5),
    Bar("the same, asyncio client", "step", "over echo, asyncio", 1.5),
    Bar("the same, blocking client, without the time of the evaluation", "step",
        "over echo, less the evaluation", None),
    Bar("the same, springs between neighbors, with the evaluation", "step", "over echo, springs",
        None),
    Bar("one walker, `water`, 192 atoms, conservative: remote step over in-process step",
        "overhead", "water, gRPC stream over in-process", 1.05, form="{:.3f}"),
    Bar("lower bound: in-process step plus a bare gRPC echo of its bytes, over the step",
        "overhead", "water, in this process, and a gRPC echo over in-process", None,
        form="{:.3f}"),
    Bar("a step of `water`, gRPC stream: with a key over without", "access", "gRPC, key", 1.05,
        form="{:.3f}"),
    Bar("the same with a key and TLS", "access", "gRPC, key and TLS", 1.05, form="{:.3f}"),
    Bar("the same over REST", "access", "REST, key and TLS", 1.05, form="{:.3f}"),
    Bar("REST protobuf, toy, 192 atoms", "overhead", "toy, REST protobuf, ms", 4.0,
        form="{:.2f}", unit=" ms"),
    Bar("speed-up by compilation, direct", "cost", "plain over compiled, direct", 2.5,
        is_upper=False),
    Bar("speed-up by compilation, conservative", "cost",
        "plain over compiled, conservative", 2.5, is_upper=False),
    Bar("32 walkers × 8 atoms, toy: evaluations/s", "crowd", "evaluations/s", 1000.0,
        is_upper=False, form="{:.0f}", unit="/s"),
    Bar("full batches of 32 such systems in one process, without a service", "crowd",
        "full batches in process, evaluations/s", None, form="{:.0f}", unit="/s"),
    Bar("32 walkers: TwinForce over a Ray Serve `@serve.batch` deployment", "crowd",
        "over Ray Serve", 5.0, is_upper=False),
    Bar("16 walkers × 192 atoms, `water`: throughput over full batches in one process", "walkers",
        "over full batches", 0.95, is_upper=False, form="{:.3f}"),
    Bar("hybrid call over conservative call, compiled", "cost",
        "hybrid over conservative, compiled", 1.05, form="{:.3f}"),
    Bar("block of MTS-8 through `Propagate` over 8 direct steps in process", "propagation",
        "block of M = 8 through gRPC", 1.25),
    Bar("the same, four blocks in a call", "propagation", "block of M = 8, each of 4 in a call",
        None),
    Bar("lower bound: the same block in process", "propagation", "block of M = 8 in this process",
        None),
    Bar("step against size, 54 to 20,577 atoms: direct, deviation from a line", "sizes",
        "direct, deviation from a line", 0.2, form="{:.1%}", unit=""),
    Bar("the same, conservative", "sizes", "conservative, deviation from a line", 0.2,
        form="{:.1%}", unit=""),
    Bar("memory per atom, conservative", "sizes", "memory per atom, KB", None, form="{:.0f}",
        unit=" KB"),
    Bar("slow-down of 8 busy walkers by 1,000 idle streams", "idle", "slow-down", 1.05,
        form="{:.3f}"),
)  # fmt: skip

GPU_BARS = (
    Bar("PET like pet-mad-s, one walker: speed over `MetatomicCalculator`", "gpu",
        "PET, calculator over one walker", 2.0, is_upper=False),
    Bar("the same, through a service over gRPC", "gpu", "PET, calculator over one served walker",
        2.0, is_upper=False),
    Bar("32 walkers in a batch: throughput over successive steps of the calculator", "gpu",
        "PET, calculator over all walkers", 10.0, is_upper=False),
    Bar("the same, through a service over gRPC", "gpu",
        "PET, calculator over all served walkers", 10.0, is_upper=False),
    Bar("`water`, conservative, best batch", "gpu", "µs per atom and step, conservative", None,
        form="{:.3f}", unit=" µs/atom/step"),
    Bar("utilization of the GPU, PET, 32 walkers", "gpu", "utilization, PET, %", None,
        form="{:.0f}", unit="%"),
    Bar("utilization of the GPU, `water`, 32 walkers", "gpu", "utilization, water, %", None,
        form="{:.0f}", unit="%"),
)  # fmt: skip


def table(bars: tuple[Bar, ...], results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a table in Markdown, one row for each bar.

    Args:
        bars: Rows of the table.
        results: Name of a result -> its content.
    """
    lines = ["| figure | bar | measured | |", "| --- | --- | --- | --- |"]
    for bar in bars:
        found = figure(results.get(bar.file, {}), bar.figure)
        cells = (bar.title, bar.written_limit(), bar.written(found), bar.verdict(found))
        lines.append(f"| {' | '.join(cells)} |")
    return lines
