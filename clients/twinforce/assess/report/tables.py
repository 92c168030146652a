"""The tables of a report, as text for any kind of page."""

from collections.abc import Callable, Mapping
from typing import Any

from twinforce.assess.analysis.motion import wave_number
from twinforce.assess.report.agreement import agreement_table
from twinforce.assess.report.content import Report, resonance_of, title_of, unit_of, units_of
from twinforce.assess.report.formatting import (
    UNKNOWN,
    ReportTable,
    estimate,
    number,
    with_error,
)
from twinforce.assess.ways import parse_way


def lambda_table(report: Report) -> ReportTable:
    """Return λ by both routes."""
    client = unit_of(report, "lambda:client")
    found = {
        "direct, automatic differentiation (service)": unit_of(report, "lambda:server"),
        "direct, finite differences (client)": client.get("direct"),
        "conservative, finite differences (noise)": client.get("conservative"),
    }
    rows = tuple(
        (
            name,
            number(each["lambda"], ".5f", "‖J‖ = 0"),
            number(each["jacobian_norm"], ".5g"),
        )
        for name, each in found.items()
        if each and "lambda" in each
    )
    return ReportTable(("forces", "λ", "‖J‖, eV/Å²"), rows)


def loops_table(report: Report) -> ReportTable:
    """Return the work around closed paths."""
    unit = unit_of(report, "loops")
    rows = tuple(
        (
            kind,
            with_error(each["rms_work_mev_per_atom"], each["error_mev_per_atom"]),
            number(each["quadrature_error_mev_per_atom"], ".1e"),
            number(each["relative_to_path"], ".1e", "no forces along the paths"),
        )
        for kind in ("conservative", "direct")
        if (each := unit.get(kind))
    )
    headers = ("forces", "rms work, meV/atom", "quadrature error, meV/atom", "work / ∮|f·dr|")
    return ReportTable(headers, rows)


def resonance_table(report: Report) -> ReportTable:
    """Return the predicted drifts beside those that were measured."""
    rows = []
    for inner_steps, each in resonance_of(report).get("drifts", {}).items():
        outer_fs = int(inner_steps) * report["conditions"]["time_step_fs"]
        measured = unit_of(report, f"nve:hybrid-{inner_steps}").get("drift")
        rows.append(
            (
                inner_steps,
                f"{outer_fs:g}",
                f"{wave_number(outer_fs):.0f}",
                estimate(each),
                with_error(measured["rate"], measured["error"]) if measured else UNKNOWN,
            )
        )
    headers = (
        "M",
        "outer step, fs",
        "modulation frequency, 1/cm",
        "predicted drift, meV/atom/ps",
        "measured drift, meV/atom/ps",
    )
    return ReportTable(headers, tuple(rows))


def nve_table(report: Report) -> ReportTable:
    """Return the drifts of the total energy."""
    rows = []
    for key, unit in units_of(report, "nve", "time_ps").items():
        rows.append(
            (
                title_of(key),
                _length(unit),
                _drift(unit["drift"]),
                f"{number(unit['first_temperature_k'], '.0f')}, "
                f"{number(unit['last_temperature_k'], '.0f')}",
                _in_mev(unit["rmse"]["value"]),
                unit["note"],
            )
        )
    headers = (
        "forces",
        "length, ps",
        "drift, meV/atom/ps",
        "initial and final temperature, K",
        "force difference (rms), meV/Å",
        "note",
    )
    return ReportTable(headers, tuple(rows))


def nvt_table(report: Report) -> ReportTable:
    """Return the deviations of temperatures from the target, for all atoms and each species."""
    target = report["conditions"]["temperature_k"]
    symbols = list(report["atoms"]["counts"])
    reasons = _reasons(report)
    rows = []
    for key, unit in units_of(report, "nvt", "species_temperatures").items():
        shifts = unit["expected_shifts_k"] or {}
        rows.append(
            (
                title_of(key),
                _length(unit),
                _deviation(unit["temperature"], target),
                *(
                    _deviation(unit["species_temperatures"][each], target, reasons[each])
                    for each in symbols
                ),
                ", ".join(f"{shifts[each]:+.1f}" for each in symbols if each in shifts) or UNKNOWN,
                _drift(unit["conserved_drift"]),
            )
        )
    headers = (
        "forces; thermostat",
        "length, ps",
        "T - target, K",
        *(f"{each}, K" for each in symbols),
        f"expected shift by the time step ({', '.join(symbols)}), K",
        "drift of the conserved energy, meV/atom/ps",
    )
    return ReportTable(headers, tuple(rows))


def motion_table(report: Report) -> ReportTable:
    """Return diffusion coefficients and the peaks of spectra and radial distributions."""
    symbols = list(report["atoms"]["counts"])
    reasons = _reasons(report)
    units = units_of(report, "nvt", "diffusion")
    pairs = list(dict.fromkeys(name for unit in units.values() for name in unit["radial"]))
    rows = []
    for key, unit in units.items():
        spectra, radial = unit["spectra"], unit["radial"]
        rows.append(
            (
                title_of(key),
                *(estimate(unit["diffusion"][each], reason=reasons[each]) for each in symbols),
                *(
                    number(spectra.get(each, {}).get("peak"), ".0f", reasons[each])
                    for each in symbols
                ),
                *(f"{radial[each]['peak']:.2f}" if each in radial else UNKNOWN for each in pairs),
            )
        )
    headers = (
        "forces; thermostat",
        *(f"diffusion of {each}, Å²/ps" for each in symbols),
        *(f"spectral peak of {each}, 1/cm" for each in symbols),
        *(f"peak of g({each}), Å" for each in pairs),
    )
    return ReportTable(headers, tuple(rows))


def optimization_table(report: Report) -> ReportTable:
    """Return success rates and the number of evaluations of optimizations."""
    f = unit_of(report, "cost").get("f", {}).get("value")
    rows = []
    for key, unit in units_of(report, "optimise", "success_rate").items():
        total = UNKNOWN if f is None else f"{unit['n_direct'] + f * unit['n_conservative']:.0f}"
        rows.append(
            (
                title_of(key),
                f"{round(unit['success_rate'] * unit['n_done'])} of {unit['n_done']}",
                f"{unit['believed_rate']:.0%}",
                with_error(unit["n_direct"], unit["n_direct_error"]),
                with_error(unit["n_conservative"], unit["n_conservative_error"]),
                total,
                number(unit["largest_force_median"], ".3f", "every end is beyond the model"),
            )
        )
    headers = (
        "forces",
        "ended at a minimum",
        "reported convergence",
        "direct evaluations",
        "conservative evaluations",
        "total, in direct evaluations",
        "largest force at the end (median), eV/Å",
    )
    return ReportTable(headers, tuple(rows))


def cost_table(report: Report) -> ReportTable:
    """Return the cost of an inner step in each way."""
    rows = tuple(
        (
            parse_way(way).title,
            f"{each['step_ms']['median']:.1f}",
            f"{each['step_ms']['low']:.1f} - {each['step_ms']['high']:.1f}",
            estimate(each["over_direct"], reason="no time"),
            number(each["expected_over_direct"], ".3f"),
            estimate(each["over_expected"], reason="no time"),
            estimate(each["speed_up_over_conservative"], reason="no time"),
        )
        for way, each in unit_of(report, "cost").get("ways", {}).items()
    )
    headers = (
        "forces",
        "inner step, ms",
        "middle 68%, ms",
        "relative to direct",
        "1 + (F - 1)/M",
        "measured / expected",
        "speedup over conservative",
    )
    return ReportTable(headers, rows)


def calls_table(report: Report) -> ReportTable:
    """Return the cost of a single evaluation, on the service and over the wire."""
    rows = tuple(
        (
            name,
            f"{each['compute_ms']['median']:.1f}",
            f"{each['call_ms']['median']:.1f}",
            _ratio(each["call_ms"]["median"], each["compute_ms"]["median"]),
        )
        for name, each in unit_of(report, "cost").get("calls", {}).items()
    )
    headers = ("outputs", "computation on the service, ms", "round trip of the client, ms", "ratio")
    return ReportTable(headers, rows)


TABLES: Mapping[str, tuple[Callable[[Report], ReportTable], ...]] = {
    "lambda": (lambda_table,),
    "loops": (loops_table,),
    "cost": (cost_table, calls_table),
    "optimise": (optimization_table,),
    "resonance": (resonance_table,),
    "nve": (nve_table,),
    "nvt": (nvt_table, motion_table, agreement_table),
}


def _length(unit: Report) -> str:
    """Return the length of a simulation, and the planned one if it is shorter, in ps."""
    done, planned = unit["picoseconds"], unit["planned_picoseconds"]
    return f"{done:.3g}" if done >= planned else f"{done:.3g} of {planned:.3g}"


def _drift(drift: Mapping[str, Any] | None) -> str:
    if drift is None:
        return number(None, "", "too short")
    return with_error(drift["rate"], drift["error"], signed=True)


def _deviation(found: Mapping[str, Any], target: float, reason: str = "too short") -> str:
    value = None if found["value"] is None else found["value"] - target
    return estimate({**found, "value": value}, signed=True, reason=reason)


def _reasons(report: Report) -> dict[str, str]:
    """Return the reason why a figure of each species is not defined, if it is not."""
    atoms = report["atoms"]
    return {
        each: "too short" if each in atoms["free_counts"] else "fixed" for each in atoms["counts"]
    }


def _in_mev(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value * 1e3:.1f}"


def _ratio(numerator: float, denominator: float) -> str:
    return number(numerator / denominator if denominator else None, ".2f", "no time")
