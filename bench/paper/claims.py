"""Claims about the bundled model, and rules that decide whether the numbers support them."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import hypot

from twinforce.assess.report.content import Report, unit_of
from twinforce.assess.report.formatting import with_error

MAX_ERROR_K = 3.0
MAX_BLOCK = 1.25
MIN_SPEED_UP = 2.0
MAX_FROM_EXPECTED = 0.05


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim and its verdict.

    Attributes:
        text: The claim.
        holds: "yes", "no", or "not shown" if errors are too large or a run is missing.
        numbers: Measured values.
    """

    text: str
    holds: str
    numbers: str


def claims_of(report: Report) -> list[Claim]:
    """Return all claims."""
    return [*_temperatures(report), _drift(report), *_costs(report)]


def _temperatures(report: Report) -> Iterator[Claim]:
    hybrid = _species(report, "nvt:hybrid-8:svr:10")
    is_sharp = bool(hybrid) and all(good and error <= MAX_ERROR_K for _, error, good in hybrid)
    is_within = all(abs(value) <= 2.0 * error for value, error, _ in hybrid)
    holds = "not shown" if not is_sharp else "yes" if is_within else "no"
    text = (
        "MTS, M = 8, SVR, τ = 10 fs: the temperature of each species is within two errors of the "
        f"target, with errors of at most {MAX_ERROR_K:g} K"
    )
    yield Claim(text, holds, _numbers(report, "nvt:hybrid-8:svr:10"))
    direct = _species(report, "nvt:direct:svr:10")
    unit = unit_of(report, "nvt:direct:svr:10")
    deviates = any(good and abs(value) > 3.0 * error for value, error, good in direct)
    if unit.get("status") == "stopped":
        holds = "yes"
    else:
        holds = "yes" if deviates else "no" if direct and is_all_good(direct) else "not shown"
    text = (
        "Direct forces alone, the same thermostat: a species is more than three errors from the "
        "target"
    )
    yield Claim(text, holds, _numbers(report, "nvt:direct:svr:10") or unit.get("note", ""))


def is_all_good(found: list[tuple[float, float, bool]]) -> bool:
    """Return True if all errors are reliable."""
    return all(good for _, _, good in found)


def _drift(report: Report) -> Claim:
    text = "NVE: the drifts of MTS, M = 8, and of conservative forces agree within two errors"
    drifts = [unit_of(report, f"nve:{way}").get("drift") for way in ("hybrid-8", "conservative")]
    if None in drifts:
        return Claim(text, "not shown", "")
    hybrid, conservative = drifts
    difference = hybrid["rate"] - conservative["rate"]
    error = hypot(hybrid["error"], conservative["error"])
    limit = report["thresholds"]["max_drift"]
    holds = "no"
    if abs(difference) <= 2.0 * error:
        holds = "yes" if 2.0 * error <= limit else "not shown"
    each = (with_error(drift["rate"], drift["error"], signed=True) for drift in drifts)
    return Claim(text, holds, f"{' against '.join(each)} meV/atom/ps")


def _costs(report: Report) -> Iterator[Claim]:
    found = unit_of(report, "cost")
    way = found.get("ways", {}).get("hybrid-8")
    conservative = found.get("ways", {}).get("conservative")
    texts = (
        f"A block of M = 8 costs at most {MAX_BLOCK:g} times as much as 8 direct steps",
        f"An inner step of MTS, M = 8, is at least {MIN_SPEED_UP:g} times as fast as a "
        "conservative step",
        f"An inner step of MTS, M = 8, costs 1 + (F - 1)/M direct steps within "
        f"{MAX_FROM_EXPECTED:.0%}",
    )
    if not way or not conservative:
        yield from (Claim(text, "not shown", "") for text in texts)
        return
    block, speed = way["over_direct"], way["speed_up_over_conservative"]
    exact = way["over_expected"]
    yield Claim(texts[0], _at_most(block["value"], block["error"], MAX_BLOCK), _estimate(block))
    f = found["f"]
    yield Claim(
        texts[1],
        _at_most(-speed["value"], speed["error"], -MIN_SPEED_UP),
        f"{_estimate(speed)}, with F = {_estimate(f)}",
    )
    distance = abs(exact["value"] - 1.0)
    yield Claim(texts[2], _at_most(distance, exact["error"], MAX_FROM_EXPECTED), _estimate(exact))


def _at_most(value: float, error: float | None, limit: float) -> str:
    if error is None:
        return "not shown"
    if value + 2.0 * error <= limit:
        return "yes"
    return "no" if value - 2.0 * error > limit else "not shown"


def _species(report: Report, key: str) -> list[tuple[float, float, bool]]:
    target = report["conditions"]["temperature_k"]
    found = unit_of(report, key).get("species_temperatures", {}).values()
    return [
        (each["value"] - target, each["error"], each["is_reliable"])
        for each in found
        if each["value"] is not None and each["error"] is not None
    ]


def _numbers(report: Report, key: str) -> str:
    symbols = unit_of(report, key).get("species_temperatures", {})
    found = zip(symbols, _species(report, key), strict=False)
    return ", ".join(f"{name} {with_error(v, e, signed=True)} K" for name, (v, e, _) in found)


def _estimate(found: Report) -> str:
    return with_error(found["value"], found["error"])
