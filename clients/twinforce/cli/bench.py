"""`twinforce bench`: measure what each kind of forces costs, for a system of the user."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from twinforce._client import Client
from twinforce.cli.arguments import (
    add_command,
    add_file,
    add_model,
    add_quiet,
    add_service_options,
    non_negative,
    positive,
    service_options,
)
from twinforce.cli.files import read_atoms, require
from twinforce.cli.progress import ProgressMeter, suggest
from twinforce.cli.round_trips import RoundTrip, time_crowd, time_walker
from twinforce_proto import ModelInfo, parse_outputs

_KINDS = {
    "energy": ("energy",),
    "direct": ("energy", "direct_forces"),
    "conservative": ("energy", "conservative_forces"),
    "hybrid": ("energy", "conservative_forces", "direct_forces"),
}
# Numbers of inner steps whose speed is told.
_INNER_STEPS = (2, 4, 8, 16)
_Report = dict[str, Any]


def add_bench_command(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "bench",
        "FILE",
        summary="measure what each kind of forces costs for a system",
        example="twinforce bench water.xyz --walkers 16",
    )
    add_file(
        parser.add_argument_group("system"),
        index="-1",
        index_help="system in the file to evaluate (default: %(default)s, the last one)",
    )
    measurement = parser.add_argument_group("measurement")
    add_model(measurement)
    measurement.add_argument(
        "--seconds",
        type=positive(float),
        default=5.0,
        metavar="S",
        help="time for each kind of forces, and for the walkers together (default: %(default)g)",
    )
    measurement.add_argument(
        "--walkers",
        type=non_negative,
        default=8,
        metavar="N",
        help="number of simulations at once in the last measurement, or 0 to leave it out "
        "(default: %(default)s)",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="write JSON instead of text")
    add_quiet(output)
    add_service_options(parser)
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> None:
    (atoms,) = read_atoms(args.file, args.index)[-1:]
    system = require("twinforce.ase").system_of(atoms)
    with Client(args.url, **service_options(args)) as client:
        info = client.model(args.model)
        kinds = _kinds_of(info)
        total = args.seconds * (len(kinds) + bool(args.walkers))
        with ProgressMeter(round(total), "s", is_quiet=args.quiet) as meter:
            alone = time_walker(
                client, system, info.name, kinds, args.seconds, lambda done: meter.update(int(done))
            )
            name, outputs = list(kinds.items())[-1]
            crowd = (
                time_crowd(client, system, info.name, outputs, args.walkers, args.seconds)
                if args.walkers
                else None
            )
            meter.update(round(total))
    report = _report(info, len(system), alone) | _of_crowd(name, args.walkers, crowd)
    sys.stdout.write((json.dumps(report, indent=2) if args.json else _text(report)) + "\n")
    if not args.quiet:
        command = "assess" if "speed_of_inner_steps" in report else "md"
        suggest(args, [command, str(args.file), "--model", report["model"]])


def _kinds_of(info: ModelInfo) -> dict[str, frozenset[str]]:
    """Return the kinds of prediction that a model has; the most complete one is the last."""
    return {
        name: parse_outputs(outputs)
        for name, outputs in _KINDS.items()
        if all(each in info.outputs for each in outputs)
    }


def _report(info: ModelInfo, n_atoms: int, alone: Mapping[str, Sequence[RoundTrip]]) -> _Report:
    report: _Report = {
        "model": info.name,
        "device": info.device,
        "n_atoms": n_atoms,
        "kinds": {name: _summary(trips) for name, trips in alone.items()},
    }
    median = {name: each["median_ms"] for name, each in report["kinds"].items()}
    if {"direct", "hybrid", "conservative"} <= median.keys():
        report["conservative_over_direct"] = median["conservative"] / median["direct"]
        report["speed_of_inner_steps"] = {
            str(n): n * median["conservative"] / ((n - 1) * median["direct"] + median["hybrid"])
            for n in _INNER_STEPS
        }
    return report


def _summary(trips: Sequence[RoundTrip]) -> dict[str, float]:
    """Return the medians of round trips, in ms, with the 10th and 90th percentiles."""
    total = 1e3 * np.array([each.seconds for each in trips])
    low, median, high = np.percentile(total, [10, 50, 90])
    compute = 1e3 * float(np.median([each.compute_s for each in trips]))
    queue = 1e3 * float(np.median([each.queue_s for each in trips]))
    return {
        "n": len(trips),
        "median_ms": float(median),
        "p10_ms": float(low),
        "p90_ms": float(high),
        "compute_ms": compute,
        "queue_ms": queue,
        "batch": float(np.mean([each.n_systems for each in trips])),
    }


def _of_crowd(
    name: str, n_walkers: int, crowd: tuple[Sequence[RoundTrip], float] | None
) -> _Report:
    if crowd is None:
        return {}
    trips, seconds = crowd
    rate = {"n_walkers": n_walkers, "kind": name, "per_s": len(trips) / seconds, "s": seconds}
    return {"walkers": rate | _summary(trips)}


def _text(report: _Report) -> str:
    lines = [
        f"{report['model']} on {report['device']}, {report['n_atoms']} atoms, one walker:",
        "",
        f"{'prediction':<14}{'per s':>8}{'ms':>9}{'10-90%':>15}{'device ms':>11}{'rest ms':>9}",
    ]
    for name, kind in report["kinds"].items():
        rest = kind["median_ms"] - kind["compute_ms"] - kind["queue_ms"]
        lines.append(
            f"{name:<14}{1e3 / kind['median_ms']:>8.1f}{kind['median_ms']:>9.2f}"
            f"{kind['p10_ms']:>8.2f}-{kind['p90_ms']:<6.2f}{kind['compute_ms']:>11.2f}{rest:>9.2f}"
        )
    if "conservative_over_direct" in report:
        speeds = report["speed_of_inner_steps"].items()
        lines += [
            "",
            f"Conservative forces cost {report['conservative_over_direct']:.2f} times as much as "
            "direct ones.",
            "Multiple time stepping, compared with conservative forces: "
            + ", ".join(f"M = {n}: {speed:.2f}x" for n, speed in speeds),
        ]
    if walkers := report.get("walkers"):
        lines += [
            "",
            f"{walkers['n_walkers']} walkers at once, {walkers['kind']}: {walkers['per_s']:.1f} "
            f"evaluations/s, {walkers['median_ms']:.1f} ms each, "
            f"{walkers['batch']:.1f} systems in a batch.",
        ]
    return "\n".join(lines)
