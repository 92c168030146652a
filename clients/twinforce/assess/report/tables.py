"""Tables of a report: headers and rows of text, for any kind of page."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from twinforce.assess.analysis.motion import wave_number
from twinforce.assess.report.figures import title_of
from twinforce.assess.report.verdict import units_of
from twinforce.assess.ways import parse_way

Report = Mapping[str, Any]
UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class Table:
    """Text in rows and columns."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def with_error(value: float | None, error: float | None, *, signed: bool = False) -> str:
    """Return a number with as many digits as its error is worth."""
    if value is None:
        return UNKNOWN
    if error is None or error == 0.0:
        return f"{value:.3g}"
    if error < 1e-6:
        return f"{value:.1e} ± {error:.1e}"
    digits = 0
    while digits < 8 and error < 2.0 * 10.0**-digits:
        digits += 1
    sign = "+" if signed else ""
    return f"{value:{sign}.{digits}f} ± {error:.{digits}f}"


def estimate(found: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """Return an estimate; one whose error is not reliable is marked with a question mark."""
    if not found:
        return UNKNOWN
    text = with_error(found["value"], found["error"], signed=signed)
    return text if found["is_reliable"] or text == UNKNOWN else f"{text} ?"


def length_of(unit: Report) -> str:
    """Return how long a run is, and how long it was to be."""
    done, planned = unit["picoseconds"], unit["planned_picoseconds"]
    return f"{done:.3g}" if done >= planned else f"{done:.3g} of {planned:.3g}"


def lambda_table(report: Report) -> Table:
    """Return λ by both routes."""
    units = report["pieces"].get("lambda", {})
    client = units.get("lambda:client", {})
    found = {
        "direct, derivatives on the service": units.get("lambda:server"),
        "direct, differences by the client": client.get("direct"),
        "conservative, differences: the noise": client.get("conservative"),
    }
    rows = tuple(
        (name, f"{each['lambda']:.5f}", f"{each['jacobian_norm']:.5g}")
        for name, each in found.items()
        if each and each.get("lambda") is not None
    )
    return Table(("forces", "λ", "‖J‖, eV/Å²"), rows)


def loops_table(report: Report) -> Table:
    """Return the work around closed paths."""
    unit = report["pieces"].get("loops", {}).get("loops", {})
    rows = tuple(
        (
            kind,
            with_error(each["rms_work_mev_per_atom"], each["error_mev_per_atom"]),
            f"{each['quadrature_error_mev_per_atom']:.1e}",
            f"{each['relative_to_path']:.1e}",
        )
        for kind in ("conservative", "direct")
        if (each := unit.get(kind))
    )
    headers = ("forces", "rms work, meV/atom", "error of the sum, meV/atom", "work / ∮|f·dr|")
    return Table(headers, rows)


def resonance_table(report: Report) -> Table:
    """Return the drifts that one run predicts, beside those that were measured."""
    unit = report["pieces"].get("resonance", {}).get("resonance", {})
    nve = report["pieces"].get("nve", {})
    rows = []
    for inner_steps, each in unit.get("drifts", {}).items():
        outer_fs = int(inner_steps) * report["conditions"]["time_step_fs"]
        measured = nve.get(f"nve:hybrid-{inner_steps}", {}).get("drift")
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
        "shakes at, 1/cm",
        "drift predicted, meV/atom/ps",
        "measured",
    )
    return Table(headers, tuple(rows))


def nve_table(report: Report) -> Table:
    """Return the drifts of the total energy."""
    rows = []
    for key, unit in units_of(report, "nve", "time_ps").items():
        drift = unit["drift"] or {"rate": None, "error": None}
        rows.append(
            (
                title_of(key),
                length_of(unit),
                with_error(drift["rate"], drift["error"], signed=True),
                f"{unit['first_temperature_k']:.0f}, {unit['last_temperature_k']:.0f}",
                f"{unit['rmse']['value'] * 1e3:.1f}" if unit["rmse"]["value"] else UNKNOWN,
                unit["note"],
            )
        )
    headers = ("forces", "ps", "drift, meV/atom/ps", "first and last K", "forces apart, meV/Å", "")
    return Table(headers, tuple(rows))


def nvt_table(report: Report) -> Table:
    """Return temperatures, of all and of species, as deviations from the target."""
    target = report["conditions"]["temperature_k"]
    symbols = list(report["atoms"]["counts"])
    rows = []
    for key, unit in units_of(report, "nvt", "species_temperatures").items():
        drift = unit["conserved_drift"] or {"rate": None, "error": None}
        shifts = unit["expected_shifts_k"] or {}
        rows.append(
            (
                title_of(key),
                length_of(unit),
                _deviation(unit["temperature"], target),
                *(_deviation(unit["species_temperatures"][each], target) for each in symbols),
                ", ".join(f"{shifts[each]:+.1f}" for each in symbols if each in shifts) or UNKNOWN,
                with_error(drift["rate"], drift["error"], signed=True),
            )
        )
    headers = (
        "forces; thermostat",
        "ps",
        "T - target, K",
        *(f"{each}, K" for each in symbols),
        f"expected of the time step ({', '.join(symbols)}), K",
        "drift of the conserved energy, meV/atom/ps",
    )
    return Table(headers, tuple(rows))


def motion_table(report: Report) -> Table:
    """Return diffusion coefficients and the peaks of spectra and radial distributions."""
    symbols = list(report["atoms"]["counts"])
    units = units_of(report, "nvt", "diffusion")
    pairs = list(dict.fromkeys(name for unit in units.values() for name in unit["radial"]))
    rows = []
    for key, unit in units.items():
        spectra, radial = unit["spectra"], unit["radial"]
        rows.append(
            (
                title_of(key),
                *(estimate(unit["diffusion"][each]) for each in symbols),
                *(
                    f"{spectra[each]['peak']:.0f}" if each in spectra else UNKNOWN
                    for each in symbols
                ),
                *(f"{radial[each]['peak']:.2f}" if each in radial else UNKNOWN for each in pairs),
            )
        )
    headers = (
        "forces; thermostat",
        *(f"diffusion of {each}, Å²/ps" for each in symbols),
        *(f"spectrum of {each} peaks at, 1/cm" for each in symbols),
        *(f"g({each}) peaks at, Å" for each in pairs),
    )
    return Table(headers, tuple(rows))


def optimise_table(report: Report) -> Table:
    """Return success rates and what they took."""
    f = report["pieces"].get("cost", {}).get("cost", {}).get("f", {}).get("value")
    rows = []
    for key, unit in units_of(report, "optimise", "success_rate").items():
        work = UNKNOWN if f is None else f"{unit['n_direct'] + f * unit['n_conservative']:.0f}"
        largest = unit["largest_force_median"]
        rows.append(
            (
                title_of(key),
                f"{round(unit['success_rate'] * unit['n_done'])} of {unit['n_done']}",
                f"{unit['believed_rate']:.0%}",
                with_error(unit["n_direct"], unit["n_direct_error"]),
                with_error(unit["n_conservative"], unit["n_conservative_error"]),
                work,
                UNKNOWN if largest is None else f"{largest:.3f}",
            )
        )
    headers = (
        "forces",
        "ended at a minimum",
        "believed to",
        "direct evaluations",
        "conservative evaluations",
        "in direct ones",
        "largest force at the end, median, eV/Å",
    )
    return Table(headers, tuple(rows))


def cost_table(report: Report) -> Table:
    """Return what an inner step costs in each way."""
    unit = report["pieces"].get("cost", {}).get("cost", {})
    rows = tuple(
        (
            parse_way(way).title,
            f"{each['step_ms']['median']:.1f}",
            f"{each['step_ms']['low']:.1f} - {each['step_ms']['high']:.1f}",
            estimate(each["over_direct"]),
            f"{each['expected_over_direct']:.3f}",
            estimate(each["over_expected"]),
            estimate(each["speed_up_over_conservative"]),
        )
        for way, each in unit.get("ways", {}).items()
    )
    headers = (
        "forces",
        "inner step, ms",
        "middle 68%",
        "over direct",
        "1 + (F - 1)/M",
        "measured / expected",
        "speed-up over conservative",
    )
    return Table(headers, rows)


def calls_table(report: Report) -> Table:
    """Return what a single evaluation costs, at the service and over the wire."""
    calls = report["pieces"].get("cost", {}).get("cost", {}).get("calls", {})
    rows = tuple(
        (
            name,
            f"{each['compute_ms']['median']:.1f}",
            f"{each['call_ms']['median']:.1f}",
            f"{each['call_ms']['median'] / each['compute_ms']['median']:.2f}",
        )
        for name, each in calls.items()
    )
    return Table(("outputs", "service computes, ms", "client waits, ms", "ratio"), rows)


TABLES: Mapping[str, tuple[Callable[[Report], Table], ...]] = {
    "lambda": (lambda_table,),
    "loops": (loops_table,),
    "cost": (cost_table, calls_table),
    "optimise": (optimise_table,),
    "resonance": (resonance_table,),
    "nve": (nve_table,),
    "nvt": (nvt_table, motion_table),
}


def _deviation(found: Mapping[str, Any], target: float) -> str:
    if found["value"] is None:
        return UNKNOWN
    return estimate({**found, "value": found["value"] - target}, signed=True)
