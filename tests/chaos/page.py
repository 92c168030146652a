"""The page about the trials, made from their results."""

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = """\
# Faults

`make chaos` does what can go wrong to a real service, while {n_walkers} walkers, {n_runs}
propagations and {n_runs} relaxations use it, half of them over gRPC and half over REST, from
processes of their own. A client is *hung* if it has not ended after minutes (ten times what all
take without a fault), *lost* if it ended with an error, and *wrong* if its last positions differ
from those without a fault by more than 10⁻⁶ Å; a relaxation, which may find another minimum, if the
forces at its end, asked again, are not below its threshold.
The recovery is the longest time in which none of the clients took a step, and the pause the longest
between two steps of any one of them. Clients of three replicas know the addresses of all, or
that of a proxy before them: HAProxy with [haproxy.cfg](haproxy.cfg), or Envoy with
[envoy.yaml](envoy.yaml). The potential is a toy, and the watchdog is set to {watchdog:g} s (its
default is 10 s).

| fault | clients | hung | lost | wrong | recovery / s | pause / s | server / MB | engine / MB | |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
_TAIL = """
Measured on {machine}, and kept in [chaos.json](chaos.json).
`make chaos CHAOS=--short` tries the faults that take least time, in about three minutes, and writes
nothing. [Operations](operations.md) explains what the service does about each fault.
"""


def page(data: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    return _HEAD.format_map(data) + "".join(map(_row, data["results"])) + _TAIL.format_map(data)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of the table alone."""
    return "".join(map(_row, results))


def _row(result: Mapping[str, Any]) -> str:
    if result["skipped"]:
        reason = f"not tried: {result['skipped']}"
        return f"| {result['fault']} | | | | | | | | | {reason} |\n"
    counts = ("n_clients", "n_hung", "n_lost", "n_wrong")
    names = (*counts, "recovery_s", "pause_s", "server_mb", "engine_mb")
    values = " | ".join("" if (value := result.get(n)) is None else str(value) for n in names)
    return f"| {result['fault']} | {values} | {result['note']} |\n"
