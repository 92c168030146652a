"""The verdict on a report: what is safe, what is unsafe, and what the numbers do not show.

Every judgment follows from a report by the rules below, and from nothing else.

- Energy (nve): safe if |drift| + 2 errors <= max_drift; unsafe if |drift| - 2 errors > max_drift.
- Temperature (nvt): the deviation of each species from the target, minus the shift that the finite
  time step alone causes (`expected_temperature_shifts`). Safe if all errors are reliable and at
  most max_temperature_error, and all deviations are within 2 errors; unsafe if one deviation
  exceeds both 3 errors and max_temperature_error / 3.
- Motion (nvt): the ratio of the diffusion of each species to that with conservative forces and the
  weakest global velocity rescaling. Unsafe if it is below min_diffusion_ratio by 2 errors; safe if
  it is above by 2 errors.
- Optimization: safe if the success rate minus its error is at least min_success; unsafe if the
  success rate plus its error is below.
- Time step: unsafe if it alone makes a species colder by more than max_step_shift; safe otherwise.
- Outer step: unsafe from half of the shortest vibrational period, at which impulses resonate; safe
  up to 0.8 of that.

Anything in between is not shown.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import hypot

from twinforce.assess.analysis.motion import period_fs
from twinforce.assess.report.advice import OPTIMIZATION, Finding, Judgment, advice_on
from twinforce.assess.report.content import Report, thermostat_of, unit_of, units_of, way_of
from twinforce.assess.report.formatting import with_error

_FAR_FROM_RESONANCE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The limits of what is safe.

    Attributes:
        max_drift: Largest drift of the total energy, in meV/atom/ps. 0.05 heats a harmonic solid
            by a fifth of a kelvin per ps.
        max_temperature_error: Largest error of the temperature of a species, in K.
        max_step_shift: Largest shift of a temperature by the finite time step, in K.
        min_diffusion_ratio: Smallest ratio of diffusion to that with conservative forces.
        min_success: Smallest fraction of optimizations that end at a minimum.
    """

    max_drift: float = 0.05
    max_temperature_error: float = 3.0
    max_step_shift: float = 6.0
    min_diffusion_ratio: float = 0.9
    min_success: float = 0.8

    @classmethod
    def at(cls, temperature_k: float) -> "Thresholds":
        """Return the default thresholds at a temperature: 1% and 2% of it are the limits in K."""
        return cls(max_temperature_error=0.01 * temperature_k, max_step_shift=0.02 * temperature_k)


@dataclass(frozen=True, slots=True)
class Verdict:
    """All judgments, and the advice that follows from them.

    Attributes:
        advice: Sentences, the most important first.
        judgements: The judgments; the name is that of the field in report.json.
    """

    advice: tuple[str, ...]
    judgements: tuple[Judgment, ...]


def judge(report: Report, thresholds: Thresholds) -> Verdict:
    """Return the verdict on a report."""
    judgments = (
        *_energies(report, thresholds),
        *_temperatures(report, thresholds),
        *_motions(report, thresholds),
        *_optimizations(report, thresholds),
        *_time_step(report, thresholds),
        *_outer_steps(report),
    )
    return Verdict(tuple(advice_on(report, judgments)), judgments)


def judge_drift(rate: float, error: float, limit: float) -> Finding:
    """Return the finding on the drift of an energy."""
    if abs(rate) + 2.0 * error <= limit:
        return "safe"
    return "unsafe" if abs(rate) - 2.0 * error > limit else "not shown"


def judge_temperatures(
    deviations: Mapping[str, tuple[float, float, bool]], limit: float
) -> Finding:
    """Return the finding on the temperatures of species.

    Args:
        deviations: For each species, the deviation and its error, in K, and whether the error is
            reliable.
        limit: Largest error from which anything is concluded, in K.
    """
    if any(
        is_reliable and abs(value) > max(3.0 * error, limit / 3.0)
        for value, error, is_reliable in deviations.values()
    ):
        return "unsafe"
    is_safe = all(
        is_reliable and error <= limit and abs(value) <= 2.0 * error
        for value, error, is_reliable in deviations.values()
    )
    return "safe" if is_safe and deviations else "not shown"


def judge_at_least(value: float, error: float, limit: float) -> Finding:
    """Return the finding on a number that should be at least the limit."""
    if value - error >= limit:
        return "safe"
    return "unsafe" if value + error < limit else "not shown"


def judge_outer_step(outer_fs: float, period_fs: float) -> Finding:
    """Return the finding on an outer step, given the period of the fastest vibration."""
    if outer_fs >= period_fs / 2.0:
        return "unsafe"
    return "safe" if outer_fs <= _FAR_FROM_RESONANCE * period_fs / 2.0 else "not shown"


def deviations_of(unit: Report, target: float) -> dict[str, tuple[float, float, bool]]:
    """Return the deviation of each species from its expected temperature.

    Each comes with its error and whether the error is reliable; all in K.
    """
    shifts = unit.get("expected_shifts_k") or {}
    deviations = {}
    for symbol, each in unit["species_temperatures"].items():
        if each["value"] is not None and each["error"] is not None:
            deviation = each["value"] - target - shifts.get(symbol, 0.0)
            deviations[symbol] = (deviation, each["error"], each["is_reliable"])
    return deviations


def _energies(report: Report, thresholds: Thresholds) -> Iterator[Judgment]:
    for key, unit in report["pieces"].get("nve", {}).items():
        drift = unit.get("drift")
        if unit["status"] == "stopped":
            yield Judgment("energy", key, "unsafe", unit["note"])
        elif drift is None:
            reason = unit["note"] or "the simulation is too short"
            yield Judgment("energy", key, "not shown", reason)
        else:
            finding = judge_drift(drift["rate"], drift["error"], thresholds.max_drift)
            number = with_error(drift["rate"], drift["error"], signed=True)
            yield Judgment("energy", key, finding, f"drift: {number} meV/atom/ps")


def _temperatures(report: Report, thresholds: Thresholds) -> Iterator[Judgment]:
    target = report["conditions"]["temperature_k"]
    for key, unit in report["pieces"].get("nvt", {}).items():
        if unit["status"] == "stopped":
            yield Judgment("temperature", key, "unsafe", unit["note"])
            continue
        if "species_temperatures" not in unit:
            yield Judgment("temperature", key, "not shown", unit["note"])
            continue
        deviations = deviations_of(unit, target)
        finding = judge_temperatures(deviations, thresholds.max_temperature_error)
        numbers = ", ".join(
            f"{symbol} {with_error(value, error, signed=True)} K"
            for symbol, (value, error, _) in deviations.items()
        )
        reason = f"deviations: {numbers}" if numbers else "the simulation is too short"
        yield Judgment("temperature", key, finding, reason)


def _motions(report: Report, thresholds: Thresholds) -> Iterator[Judgment]:
    units = units_of(report, "nvt", "diffusion")
    reference = _reference(units)
    if reference is None:
        return
    for key, unit in units.items():
        if key == reference:
            continue
        findings, ratios = [], []
        for symbol, diffusion in unit["diffusion"].items():
            finding, ratio = _compare_diffusion(
                diffusion, units[reference]["diffusion"][symbol], thresholds.min_diffusion_ratio
            )
            findings.append(finding)
            ratios.append(f"{symbol} {ratio}")
        reason = f"diffusion relative to {reference}: {', '.join(ratios)}"
        yield Judgment("motion", key, _worst(findings), reason)


def _compare_diffusion(found: Report, reference: Report, limit: float) -> tuple[Finding, str]:
    """Return the finding on the ratio of two diffusion coefficients, and the ratio as text."""
    values = [found["value"], found["error"], reference["value"], reference["error"]]
    are_reliable = found["is_reliable"] and reference["is_reliable"]
    if None in values or reference["value"] <= 0 or not are_reliable:
        return "not shown", "unknown"
    ratio = found["value"] / reference["value"]
    error = hypot(found["error"], ratio * reference["error"]) / reference["value"]
    return judge_at_least(ratio, 2.0 * error, limit), with_error(ratio, error)


def _reference(units: Mapping[str, Report]) -> str | None:
    """Return the simulation that disturbs motion least: conservative, global SVR, the longest τ."""
    relaxation_fs = {
        key: thermostat_of(key).relaxation_fs
        for key in units
        if key.startswith("nvt:conservative:svr:")
    }
    return max(relaxation_fs, key=relaxation_fs.__getitem__, default=None)


def _optimizations(report: Report, thresholds: Thresholds) -> Iterator[Judgment]:
    for key, unit in units_of(report, "optimise", "success_rate").items():
        rate, error = unit["success_rate"], unit["success_error"]
        finding = judge_at_least(rate, error, thresholds.min_success)
        reason = f"{round(rate * unit['n_done'])} of {unit['n_done']} ended at a minimum"
        yield Judgment(OPTIMIZATION, key, finding, reason)


def _time_step(report: Report, thresholds: Thresholds) -> Iterator[Judgment]:
    conditions = report["conditions"]
    step = conditions["time_step_fs"]
    frequencies = unit_of(report, "start").get("square_frequencies")
    if not frequencies:
        return
    shifts = {
        symbol: conditions["temperature_k"] * value * step**2 / 4.0
        for symbol, value in frequencies.items()
        if value is not None
    }
    if not shifts:
        return
    symbol = max(shifts, key=shifts.__getitem__)
    finding: Finding = "safe" if shifts[symbol] <= thresholds.max_step_shift else "unsafe"
    reason = f"velocity Verlet makes the momenta of {symbol} too cold by {shifts[symbol]:.1f} K"
    yield Judgment("time step", f"{step:g} fs", finding, reason)


def _outer_steps(report: Report) -> Iterator[Judgment]:
    period = _shortest_period(report)
    inner_steps = {
        way_of(key).inner_steps
        for piece in ("nve", "nvt")
        for key in report["pieces"].get(piece, {})
    }
    for each in sorted(inner_steps - {1}):
        outer = each * report["conditions"]["time_step_fs"]
        if period is None:
            yield Judgment("outer step", f"{outer:g} fs", "not shown", "no spectrum yet")
        else:
            reason = f"half of the shortest vibrational period is {period / 2.0:.1f} fs"
            yield Judgment("outer step", f"{outer:g} fs", judge_outer_step(outer, period), reason)


def _shortest_period(report: Report) -> float | None:
    """Return the period of the fastest vibration, in fs, from the best resolved spectrum."""
    units = units_of(report, "nvt", "largest_wave_number")
    spectra = {key: unit["spectra"] for key, unit in units.items() if unit["spectra"]}
    if not spectra:
        return None
    key = max(spectra, key=lambda each: units[each]["largest_wave_number"])
    highest = max(each["highest"] for each in spectra[key].values())
    return period_fs(highest) if highest > 0 else None


def _worst(findings: list[Finding]) -> Finding:
    if "unsafe" in findings:
        return "unsafe"
    return "not shown" if "not shown" in findings else "safe"
