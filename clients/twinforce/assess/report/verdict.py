"""What the numbers allow to say: safe, unsafe, or not shown.

Every judgement follows from a report by the rules written here, and from nothing else.

- Energy (nve): safe if |drift| + 2 errors <= max_drift; unsafe if |drift| - 2 errors > max_drift.
- Temperature (nvt): of each species, less what the finite time step alone does to it
  (`expected_temperature_shifts`). Safe if all errors are reliable and at most
  max_temperature_error, and all deviations within 2 errors; unsafe if one is beyond 3 errors and
  beyond max_temperature_error / 3.
- Motion (nvt): the diffusion of each species over that with conservative forces and the weakest
  global velocity rescaling. Unsafe if it is below min_diffusion_ratio by 2 errors; safe if it is
  above by 2 errors.
- Optimisation: safe if the success rate less its error is at least min_success; unsafe if with
  its error it is below.
- Time step: unsafe if it alone makes a species colder by more than max_step_shift, safe if by less.
- Outer step: unsafe beyond half of the shortest period of vibration, where impulses resonate; safe
  below 0.8 of that.

What falls between is not shown.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import hypot

from twinforce.assess.analysis.motion import period_fs
from twinforce.assess.report.advice import Finding, Judgement, Report, advice_on, way_of
from twinforce.assess.ways import parse_thermostat

_FAR_FROM_RESONANCE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Where safe ends.

    Attributes:
        max_drift: Of the total energy, in meV/atom/ps. 0.05 heats a harmonic solid by a fifth
            of a kelvin per ps.
        max_temperature_error: In K: 1% of the target.
        max_step_shift: Of a temperature by the finite time step, in K: 2% of the target.
        min_diffusion_ratio: Over diffusion with conservative forces.
        min_success: Share of optimisations that end at a minimum.
    """

    max_drift: float = 0.05
    max_temperature_error: float = 3.0
    max_step_shift: float = 6.0
    min_diffusion_ratio: float = 0.9
    min_success: float = 0.8

    @classmethod
    def at(cls, temperature_k: float) -> "Thresholds":
        """Return the usual ones at a temperature."""
        return cls(max_temperature_error=0.01 * temperature_k, max_step_shift=0.02 * temperature_k)


@dataclass(frozen=True, slots=True)
class Verdict:
    """All answers, and what to do.

    Attributes:
        advice: Sentences, the most important first.
        judgements: The answers.
    """

    advice: tuple[str, ...]
    judgements: tuple[Judgement, ...]


def judge(report: Report, thresholds: Thresholds) -> Verdict:
    """Return the verdict on a report."""
    judgements = (
        *_energies(report, thresholds),
        *_temperatures(report, thresholds),
        *_motions(report, thresholds),
        *_optimisations(report, thresholds),
        *_time_steps(report, thresholds),
    )
    return Verdict(tuple(advice_on(report, judgements)), judgements)


def judge_drift(rate: float, error: float, limit: float) -> Finding:
    """Return whether an energy is kept."""
    if abs(rate) + 2.0 * error <= limit:
        return "safe"
    return "unsafe" if abs(rate) - 2.0 * error > limit else "not shown"


def judge_temperatures(
    deviations: Mapping[str, tuple[float, float, bool]], limit: float
) -> Finding:
    """Return whether species have the temperature that they should.

    Args:
        deviations: Of each species: deviation, its error (in K) and whether that is reliable.
        limit: The largest error that shows anything, in K.
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
    """Return whether a number is at least as large as it should be, beyond its error."""
    if value - error >= limit:
        return "safe"
    return "unsafe" if value + error < limit else "not shown"


def judge_outer_step(outer_fs: float, period_fs: float) -> Finding:
    """Return whether impulses are far from resonance with the fastest vibration."""
    if outer_fs >= period_fs / 2.0:
        return "unsafe"
    return "safe" if outer_fs <= _FAR_FROM_RESONANCE * period_fs / 2.0 else "not shown"


def deviations_of(unit: Report, target: float) -> dict[str, tuple[float, float, bool]]:
    """Return deviation, error and its reliability of each species; shifts taken away."""
    shifts = unit.get("expected_shifts_k") or {}
    found = {}
    for symbol, each in unit["species_temperatures"].items():
        if each["value"] is not None and each["error"] is not None:
            deviation = each["value"] - target - shifts.get(symbol, 0.0)
            found[symbol] = (deviation, each["error"], each["is_reliable"])
    return found


def units_of(report: Report, piece: str, needed: str) -> dict[str, Report]:
    """Return the units of a piece that found this value."""
    units = report["pieces"].get(piece, {})
    return {key: unit for key, unit in units.items() if unit.get(needed) is not None}


def _energies(report: Report, thresholds: Thresholds) -> Iterator[Judgement]:
    for key, unit in report["pieces"].get("nve", {}).items():
        drift = unit.get("drift")
        if unit["status"] == "stopped":
            yield Judgement("energy", key, "unsafe", unit["note"])
        elif drift is None:
            yield Judgement("energy", key, "not shown", unit["note"] or "the run is too short")
        else:
            finding = judge_drift(drift["rate"], drift["error"], thresholds.max_drift)
            reason = f"{_pm(drift['rate'], drift['error'])} meV/atom/ps"
            yield Judgement("energy", key, finding, reason)


def _temperatures(report: Report, thresholds: Thresholds) -> Iterator[Judgement]:
    target = report["conditions"]["temperature_k"]
    for key, unit in report["pieces"].get("nvt", {}).items():
        if unit["status"] == "stopped":
            yield Judgement("temperature", key, "unsafe", unit["note"])
            continue
        if "species_temperatures" not in unit:
            yield Judgement("temperature", key, "not shown", unit["note"])
            continue
        deviations = deviations_of(unit, target)
        finding = judge_temperatures(deviations, thresholds.max_temperature_error)
        each = (f"{name} {_pm(value, error)} K" for name, (value, error, _) in deviations.items())
        reason = ", ".join(each) or "the run is too short"
        yield Judgement("temperature", key, finding, reason)


def _motions(report: Report, thresholds: Thresholds) -> Iterator[Judgement]:
    units = units_of(report, "nvt", "diffusion")
    reference = _reference(units)
    if reference is None:
        return
    for key, unit in units.items():
        if key == reference:
            continue
        findings, reasons = [], []
        for symbol, slow in unit["diffusion"].items():
            fast = units[reference]["diffusion"][symbol]
            finding, reason = _slowing(slow, fast, thresholds.min_diffusion_ratio)
            findings.append(finding)
            reasons.append(f"{symbol} {reason}")
        finding = _worst(findings)
        yield Judgement("motion", key, finding, f"{', '.join(reasons)} of that of {reference}")


def _slowing(slow: Report, fast: Report, limit: float) -> tuple[Finding, str]:
    values = [slow["value"], slow["error"], fast["value"], fast["error"]]
    if None in values or fast["value"] <= 0 or not (slow["is_reliable"] and fast["is_reliable"]):
        return "not shown", "unknown"
    ratio = slow["value"] / fast["value"]
    error = hypot(slow["error"] / fast["value"], ratio * fast["error"] / fast["value"])
    return judge_at_least(ratio, 2.0 * error, limit), _pm(ratio, error, signed=False)


def _reference(units: Mapping[str, Report]) -> str | None:
    """Return the run that disturbs motion least: conservative, global, the longest τ."""
    gentle = {
        key: parse_thermostat(key.split(":", 2)[2]).relaxation_fs
        for key in units
        if key.startswith("nvt:conservative:svr:")
    }
    return max(gentle, key=gentle.__getitem__, default=None)


def _optimisations(report: Report, thresholds: Thresholds) -> Iterator[Judgement]:
    for key, unit in units_of(report, "optimise", "success_rate").items():
        rate, error = unit["success_rate"], unit["success_error"]
        finding = judge_at_least(rate, error, thresholds.min_success)
        reason = f"{round(rate * unit['n_done'])} of {unit['n_done']} ended at a minimum"
        yield Judgement("optimisation", key, finding, reason)


def _time_steps(report: Report, thresholds: Thresholds) -> Iterator[Judgement]:
    conditions = report["conditions"]
    step = conditions["time_step_fs"]
    frequencies = report["pieces"].get("start", {}).get("start", {}).get("square_frequencies")
    if frequencies:
        shifts = {
            name: conditions["temperature_k"] * value * step**2 / 4.0
            for name, value in frequencies.items()
        }
        name = max(shifts, key=shifts.__getitem__)
        finding: Finding = "safe" if shifts[name] <= thresholds.max_step_shift else "unsafe"
        reason = f"velocity Verlet makes {name} colder than its positions by {shifts[name]:.1f} K"
        yield Judgement("time step", f"{step:g} fs", finding, reason)
    period = _shortest_period(report)
    inner = {
        way_of(key).inner_steps
        for piece in ("nve", "nvt")
        for key in report["pieces"].get(piece, {})
    }
    for inner_steps in sorted(inner - {1}):
        outer = inner_steps * step
        if period is None:
            yield Judgement("outer step", f"{outer:g} fs", "not shown", "no spectrum yet")
        else:
            finding = judge_outer_step(outer, period)
            reason = f"half of the shortest period is {period / 2.0:.1f} fs"
            yield Judgement("outer step", f"{outer:g} fs", finding, reason)


def _shortest_period(report: Report) -> float | None:
    """Return the period of the fastest vibration, in fs, from the best resolved spectrum."""
    units = units_of(report, "nvt", "largest_wave_number")
    found = {key: unit["spectra"] for key, unit in units.items() if unit["spectra"]}
    if not found:
        return None
    key = max(found, key=lambda each: units[each]["largest_wave_number"])
    highest = max(each["highest"] for each in found[key].values())
    return period_fs(highest) if highest > 0 else None


def _worst(findings: list[Finding]) -> Finding:
    if "unsafe" in findings:
        return "unsafe"
    return "not shown" if "not shown" in findings else "safe"


def _pm(value: float, error: float, *, signed: bool = True) -> str:
    """Return a number with its error, with as many digits as that is worth."""
    digits = 1
    while digits < 6 and 0 < error < 2.0 * 10.0**-digits:
        digits += 1
    sign = "+" if signed else ""
    return f"{value:{sign}.{digits}f} ± {error:.{digits}f}"
