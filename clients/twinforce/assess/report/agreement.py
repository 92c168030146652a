"""The agreement of simulations under a thermostat with that of conservative forces."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from twinforce.assess.analysis.motion import overlap
from twinforce.assess.report.content import Report, title_of, units_of, way_of
from twinforce.assess.report.formatting import UNKNOWN, ReportTable, estimate

_SIGMAS = 2.0


@dataclass(frozen=True, slots=True)
class RadialAgreement:
    """The difference of two radial distribution functions.

    Attributes:
        largest: Largest difference of g.
        share: Share of the bins that differ by more than two standard errors of the difference; of
            functions that are equal, about 5 %.
    """

    largest: float
    share: float


def reference_of(report: Report, key: str) -> str | None:
    """Return the key of the simulation with conservative forces to compare another with.

    It is the one with the same thermostat, else the first; None if there is no other one.
    """
    keys = [
        each
        for each in units_of(report, "nvt", "species_temperatures")
        if way_of(each).forces == "conservative" and each != key
    ]
    thermostat = key.split(":", 2)[2]
    return next((each for each in keys if each.endswith(f":{thermostat}")), next(iter(keys), None))


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the difference of two independent estimates, as an estimate."""
    if one["value"] is None or other["value"] is None:
        return {"value": None, "error": None, "is_reliable": False}
    return {
        "value": one["value"] - other["value"],
        "error": math.hypot(one["error"] or 0.0, other["error"] or 0.0),
        "is_reliable": one["is_reliable"] and other["is_reliable"],
    }


def radial_agreement(one: Mapping[str, Any], other: Mapping[str, Any]) -> RadialAgreement | None:
    """Return how two radial distribution functions differ; None if neither has any pairs."""
    n_bins = min(len(one["values"]), len(other["values"]))
    first, second = (np.array(each["values"][:n_bins]) for each in (one, other))
    errors = np.hypot(*(np.array(each["errors"][:n_bins]) for each in (one, other)))
    is_known = errors > 0.0
    if not is_known.any():
        return None
    deviations = np.abs(first - second)[is_known]
    share = float((deviations > _SIGMAS * errors[is_known]).mean())
    return RadialAgreement(float(deviations.max()), share)


def agreement_table(report: Report) -> ReportTable:
    """Return how temperatures, motion and structure differ from those of conservative forces."""
    units = units_of(report, "nvt", "species_temperatures")
    symbols = list(report["atoms"]["counts"]) if units else []
    pairs = list(dict.fromkeys(name for unit in units.values() for name in unit["radial"]))
    rows = tuple(
        (title_of(key), *_cells(unit, units[reference], symbols, pairs))
        for key, unit in units.items()
        if (reference := reference_of(report, key)) is not None
        and way_of(key).forces != "conservative"
    )
    headers = (
        "forces; thermostat, against conservative forces",
        *(f"temperature of {each}, difference in K" for each in symbols),
        *(f"diffusion of {each}, difference in Å²/ps" for each in symbols),
        *(f"overlap of the spectra of {each} (of halves of one run)" for each in symbols),
        *(f"g({each}): bins beyond 2σ, largest difference" for each in pairs),
    )
    return ReportTable(headers, rows)


def _cells(unit: Report, reference: Report, symbols: list[str], pairs: list[str]) -> list[str]:
    differences = [
        estimate(difference(unit[name][each], reference[name][each]), signed=True)
        for name in ("species_temperatures", "diffusion")
        for each in symbols
    ]
    spectra = [_spectra(unit["spectra"].get(s), reference["spectra"].get(s)) for s in symbols]
    radial = [_radial(unit["radial"].get(p), reference["radial"].get(p)) for p in pairs]
    return [*differences, *spectra, *radial]


def _spectra(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> str:
    if one is None or other is None:
        return UNKNOWN
    values = [np.array(each[name]) for each in (one, other) for name in ("wave_numbers", "density")]
    halves = other.get("repeatability")
    return f"{overlap(*values):.3f}" + ("" if halves is None else f" ({halves:.3f})")


def _radial(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> str:
    if one is None or other is None or (found := radial_agreement(one, other)) is None:
        return UNKNOWN
    return f"{found.share:.0%}, {found.largest:.2f}"
