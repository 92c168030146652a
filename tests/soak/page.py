"""The page about a soak, and its plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.soak.judging import WARM_UP, Verdict, judge

_HEAD = """\
# A soak

`make soak` keeps a service under mixed load for {minutes:.0f} minutes (`MINUTES=`), with keys and
TLS, and judges by rules whether its memory, its open files and its latencies stay flat. Walkers,
single systems, batches, propagations and relaxations come over both transports, and between them
new clients, malformed bodies and messages, wrong keys, connections that end in the middle, and
processes that end without a word. The load is moderate: the server and the engine together use
{cores:.2f} cores. The potential is a toy. The first {warm_up:.0f} minutes count as warm-up.

![Memory, open files and latencies](images/soak.png)

| rule | found | |
| --- | --- | --- |
{rules}
| done | times |
| --- | --- |
{counts}
Two probes ask for one system over gRPC and for `/health/live`, five times a second. The machine is
late by itself: a sleep of 1 ms ends up to {machine:.0f} ms late (p99, median of all minutes).
Measured on {machine_name}, at a load of about {load:.0f} with other work, and kept in
[soak.json](soak.json).
{note}{errors}"""


def page(data: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    samples = data["samples"]
    errors = "".join(f"\n- `{each}`" for each in data["errors"])
    verdicts = judge(samples, data["n_failed"], data["errors"])
    return _HEAD.format(
        minutes=samples[-1]["minute"],
        cores=_median(samples, "cores"),
        warm_up=WARM_UP * samples[-1]["minute"],
        rules="".join(map(_rule, verdicts)),
        counts="".join(f"| {name} | {n} |\n" for name, n in sorted(data["counts"].items())),
        machine=_median(samples, "machine_p99_ms"),
        machine_name=data["machine"],
        load=data["load"],
        note=f"\n{data['note']}\n" if data.get("note") else "",
        errors=f"\nErrors that nobody expected:\n{errors}\n" if errors else "",
    )


def plot(samples: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw memory, files and latencies over time."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 1, figsize=(9, 8), sharex=True, layout="constrained")
    minutes = [each["minute"] for each in samples]

    def draw(axis: Any, label: str, names: Mapping[str, str]) -> None:
        for name, text in names.items():
            axis.plot(minutes, [each[name] for each in samples], label=text)
        axis.axvspan(0, WARM_UP * minutes[-1], color="0.93")
        axis.set_ylabel(label)
        axis.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))

    draw(axes[0], "resident memory (MB)", {"server_mb": "server", "engine_mb": "engine"})
    draw(axes[1], "open files", {"server_files": "server", "engine_files": "engine"})
    latencies = {
        "polite_p99_ms": "one system, p99", "polite_p50_ms": "one system, p50",
        "live_p99_ms": "/health/live, p99", "live_p50_ms": "/health/live, p50",
        "machine_p99_ms": "the machine itself, p99",
    }  # fmt: skip
    draw(axes[2], "latency (ms)", latencies)
    axes[0].set_ylim(bottom=0)
    axes[1].set_ylim(bottom=0)
    axes[2].set_yscale("log")
    axes[2].set_xlabel("time (min)")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _rule(verdict: Verdict) -> str:
    return f"| {verdict.rule} | {verdict.found} | {'yes' if verdict.is_kept else '**no**'} |\n"


def _median(samples: Sequence[Mapping[str, float]], name: str) -> float:
    values = sorted(each[name] for each in samples)
    return values[len(values) // 2]
