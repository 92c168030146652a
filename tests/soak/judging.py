"""Rules by which a soak passes or fails: what has to stay flat, and how flat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

# The first part of the time counts as warm-up: caches fill, and allocators find their size.
WARM_UP = 1 / 3
# Growth of memory over the rest of the time that is allowed, and its share of the memory.
MAX_GROWTH_MB, MAX_GROWTH = 4.0, 0.02
# Files that may be open more at the end than at the beginning of the rest.
MAX_FILES = 8
# How much longer the slowest of a hundred may take at the end, besides what the machine is late by.
MAX_SLOWDOWN, MAX_LATER_MS = 1.5, 5.0


@dataclass(frozen=True)
class Verdict:
    """The result of one rule.

    Attributes:
        rule: What has to hold.
        found: What was found.
        is_kept: True if it holds.
    """

    rule: str
    found: str
    is_kept: bool


def judge(
    samples: Sequence[Mapping[str, float]], n_failed: int, errors: Sequence[str]
) -> list[Verdict]:
    """Return the verdict on each rule.

    Args:
        samples: Samples by the names of `Sample`, in the order of time.
        n_failed: Probes that failed.
        errors: Errors of clients that nothing was wrong with.
    """
    rest = samples[round(WARM_UP * len(samples)) :]
    processes = ("server", "engine")
    return [
        Verdict("no probe fails", f"{n_failed} failed", n_failed == 0),
        Verdict("no client has an unexpected error", f"{len(errors)} errors", not errors),
        *(_memory(rest, name) for name in processes),
        *(_files(rest, name) for name in processes),
        *(_latency(rest, name) for name in ("polite", "live")),
    ]


def growth(samples: Sequence[Mapping[str, float]], name: str) -> float:
    """Return by how much a quantity grows over all samples: the median slope, times the time."""
    points = [(each["minute"], each[name]) for each in samples]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2)]
    return float(np.median(slopes)) * (points[-1][0] - points[0][0])


def _memory(rest: Sequence[Mapping[str, float]], process: str) -> Verdict:
    name = f"{process}_mb"
    allowed = max(MAX_GROWTH_MB, MAX_GROWTH * rest[0][name])
    grown = growth(rest, name)
    rule = f"the memory of the {process} grows by at most {allowed:.1f} MB after warm-up"
    return Verdict(rule, f"{grown:+.2f} MB, to {rest[-1][name]:.0f} MB", grown <= allowed)


def _files(rest: Sequence[Mapping[str, float]], process: str) -> Verdict:
    first, last = (_typical(part, f"{process}_files") for part in _ends(rest))
    rule = f"the {process} has at most {MAX_FILES} more files open at the end"
    return Verdict(rule, f"{first:.0f}, then {last:.0f}", last <= first + MAX_FILES)


def _latency(rest: Sequence[Mapping[str, float]], probe: str) -> Verdict:
    first, last = (_typical(part, f"{probe}_p99_ms") for part in _ends(rest))
    machine = _typical(_ends(rest)[1], "machine_p99_ms")
    allowed = MAX_SLOWDOWN * first + MAX_LATER_MS + machine
    rule = f"the p99 of the probe `{probe}` stays below {allowed:.0f} ms"
    return Verdict(rule, f"{first:.1f} ms, then {last:.1f} ms", last <= allowed)


def _ends(rest: Sequence[Mapping[str, float]]) -> tuple[Sequence[Mapping[str, float]], ...]:
    """Return the first and the last third of the samples."""
    third = max(1, len(rest) // 3)
    return rest[:third], rest[-third:]


def _typical(samples: Sequence[Mapping[str, float]], name: str) -> float:
    return float(np.median([each[name] for each in samples]))
