"""The recommendation: how many inner steps, which thermostat, and what that rests on.

It follows from the numbers by the rules below, and from nothing else.

- An M is a *candidate* if its predicted drift plus two errors is at most `max_drift`, and its outer
  step is shorter than half of the shortest vibrational period, at which impulses resonate. If no
  drift could be predicted, because the run was too short, the fastest M with an outer step of at
  most 4 fs is tried, and a real run decides alone.
- Candidates are tried in the order of their speed, the fastest first. The time of a step with M
  inner steps is measured, or follows from the two nearest M that were, as it is linear in 1/M. If
  fewer than two were timed, it is that of a step on direct forces plus 1/M of the teacher's.
- An M is *refuted* if the drift of a real run minus two errors exceeds `max_drift`, or the run
  broke down; and *shown* if the drift plus two errors is within it. A run of less than 1 ps does
  neither, unless its drift is ten times `max_drift`: the energy wanders for longer than that, which
  the scatter within the run does not tell. The fastest M that is shown is recommended. If there is
  none, it is the fastest that is not refuted, and the recommendation says that it is not shown.
- A run of its full length that neither refutes nor shows an M is not made longer: the next M to be
  run is the fastest of at most three quarters of that.
- An M above one that is refuted is no candidate, unless it is shown itself.
- An M that is not faster than the teacher alone is never recommended.
- The thermostat is velocity rescaling with a relaxation time of 10 fs, unless the run with it
  found wrong temperatures of species.
"""

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from twinforce.assess.report.formatting import with_error
from twinforce.assess.report.verdict import judge_drift

Standing = Literal["shown", "not shown", "refuted"]

THERMOSTAT = "svr:10"
_RANGE = range(2, 17)
# Outer step that is tried first if no drift is predicted, in fs.
_MODERATE_OUTER_FS = 4.0
# The next M to run after one whose run of full length shows nothing, relative to that.
_SHORTER = 0.75
# Shortest run that decides, in ps, and drift beyond which a shorter one does, in `max_drift`.
_DECISIVE_PS, _WILD = 1.0, 10.0
_MORE_TRAINING = (
    "A student that is trained for longer (--minutes) or is larger (--student accurate) differs "
    "less from the teacher."
)
_HYDROGEN_AMU, _HEAVY_AMU = 1.008, 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The numbers that a recommendation follows from.

    Attributes:
        time_step_fs: Inner time step, in fs.
        period_fs: Shortest vibrational period, in fs; None if it is not known.
        predicted: Predicted drift of each M, as "value" and "error", in meV/atom/ps.
        step_ms: Time of an inner step in each way that was timed, in ms, by "direct",
            "conservative" or "hybrid-M".
        runs: Real runs without a thermostat, by M: "status", "drift" and "picoseconds".
        thermostat: Finding on the run with the thermostat, by M: "safe", "unsafe" or "not shown".
        max_drift: Largest drift, in meV/atom/ps.
        lightest_amu: Mass of the lightest atom, in amu.
    """

    time_step_fs: float
    period_fs: float | None = None
    predicted: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    step_ms: Mapping[str, float] = field(default_factory=dict)
    runs: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    thermostat: Mapping[int, str] = field(default_factory=dict)
    max_drift: float = 0.05
    lightest_amu: float = 1.008


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A recommendation.

    Attributes:
        inner_steps: M; None if the teacher alone is recommended.
        speed_up: Speed of an inner step over that of the teacher alone; None if not measured.
        standing: "shown" if a real run conserves the energy, else "not shown".
        thermostat: Thermostat and its relaxation time in fs, such as "svr:10".
        reasons: Sentences, the most important first.
    """

    inner_steps: int | None
    speed_up: float | None
    standing: Standing
    thermostat: str
    reasons: tuple[str, ...]


def step_ms_of(evidence: Evidence, inner_steps: int) -> float | None:
    """Return the time of an inner step with M of them in an outer one, in ms, if it is known."""
    times, share = evidence.step_ms, 1.0 / inner_steps
    measured = {
        1.0 / int(way.removeprefix("hybrid-")): step_ms
        for way, step_ms in times.items()
        if way.startswith("hybrid-") and step_ms
    }
    if share in measured:
        return measured[share]
    direct, conservative = times.get("direct"), times.get("conservative")
    if len(measured) > 1:
        # The two nearest ones, on both sides if possible: the time is linear in 1/M.
        shares = sorted(measured)
        above = min(max(bisect(shares, share), 1), len(shares) - 1)
        one, other = shares[above - 1], shares[above]
        slope = (measured[other] - measured[one]) / (other - one)
        return measured[one] + slope * (share - one)
    if not direct or not conservative:
        return None
    ratio = 1.0
    for each, step_ms in measured.items():
        ratio = step_ms / (direct + each * conservative)
    return ratio * (direct + share * conservative)


def speed_up(evidence: Evidence, inner_steps: int) -> float | None:
    """Return the speed of M inner steps over that of the teacher alone, if it is known."""
    conservative, step_ms = evidence.step_ms.get("conservative"), step_ms_of(evidence, inner_steps)
    return conservative / step_ms if conservative and step_ms else None


def reason_against(evidence: Evidence, inner_steps: int) -> str:
    """Return why an M is no candidate, or ""."""
    outer_fs = inner_steps * evidence.time_step_fs
    if evidence.period_fs is not None and outer_fs >= evidence.period_fs / 2.0:
        return (
            f"its outer step of {outer_fs:g} fs is not shorter than half of the shortest "
            f"vibrational period, {evidence.period_fs / 2.0:.1f} fs"
        )
    if is_predicted(evidence, inner_steps):
        found = evidence.predicted[inner_steps]
        if found["value"] + 2.0 * found["error"] > evidence.max_drift:
            number = with_error(found["value"], found["error"])
            return f"its predicted drift is {number} meV/atom/ps"
    faster = speed_up(evidence, inner_steps)
    if faster is not None and faster <= 1.0:
        return "it is not faster than the teacher alone"
    return ""


def candidates(evidence: Evidence) -> list[int]:
    """Return the candidates that no run has refuted, the fastest first."""
    refuted = [m for m in evidence.runs if standing_of(evidence, m) == "refuted"]
    bound = min(refuted, default=math.inf)
    found = [
        m
        for m in _RANGE
        if not reason_against(evidence, m) and (m < bound or standing_of(evidence, m) == "shown")
    ]
    return sorted(found, key=lambda m: (-(speed_up(evidence, m) or m), m))


def is_predicted(evidence: Evidence, inner_steps: int) -> bool:
    """Return True if there is a prediction of the drift with an error."""
    found = evidence.predicted.get(inner_steps)
    return found is not None and found["value"] is not None and found["error"] is not None


def standing_of(evidence: Evidence, inner_steps: int) -> Standing:
    """Return what the real run of an M shows."""
    run = evidence.runs.get(inner_steps)
    if run is None:
        return "not shown"
    if run["status"] == "stopped":
        return "refuted"
    drift = run.get("drift")
    if drift is None:
        return "not shown"
    limit = evidence.max_drift
    if run.get("picoseconds", _DECISIVE_PS) < _DECISIVE_PS:
        is_wild = abs(drift["rate"]) - 2.0 * (drift["error"] or 0.0) > _WILD * limit
        return "refuted" if is_wild else "not shown"
    finding = judge_drift(drift["rate"], drift["error"], limit)
    if finding == "unsafe":
        return "refuted"
    return "shown" if finding == "safe" else "not shown"


def recommend(evidence: Evidence) -> Recommendation:
    """Return the recommendation that follows from the evidence."""
    if not (evidence.step_ms or evidence.predicted or evidence.runs):
        reason = "Nothing is recommended: there was no time to measure. Repeat with more --minutes."
        return Recommendation(None, None, "not shown", THERMOSTAT, (reason,))
    found = candidates(evidence)
    if not found:
        return Recommendation(None, None, "not shown", THERMOSTAT, tuple(_none_reasons(evidence)))
    ranked = _ranked(evidence, found)
    chosen = next((m for m in found if standing_of(evidence, m) == "shown"), ranked[0])
    standing = standing_of(evidence, chosen)
    reasons = [
        _headline(evidence, chosen),
        _on_energy(evidence, chosen, standing),
        _on_thermostat(evidence, chosen),
        *_on_others(evidence, chosen),
        *_on_hydrogen(evidence),
    ]
    return Recommendation(chosen, speed_up(evidence, chosen), standing, THERMOSTAT, tuple(reasons))


def next_to_run(evidence: Evidence) -> int | None:
    """Return the M that a real run should verify next; None if one is shown or none is left."""
    found = candidates(evidence)
    if any(standing_of(evidence, m) == "shown" for m in found):
        return None
    is_whole = {m for m in found if m in evidence.runs and evidence.runs[m]["status"] == "done"}
    limit = _SHORTER * min(is_whole, default=math.inf)
    return next((m for m in _ranked(evidence, found) if m <= limit and m not in is_whole), None)


def _ranked(evidence: Evidence, found: Sequence[int]) -> list[int]:
    """Return those candidates to recommend or to run first, the fastest first.

    An M whose drift is predicted precedes those of which nothing is known. Without any, those that
    were run come first, or else those with a moderate outer step.
    """
    predicted = [m for m in found if is_predicted(evidence, m)]
    ran = [m for m in found if m in evidence.runs]
    moderate = [m for m in found if m * evidence.time_step_fs <= _MODERATE_OUTER_FS]
    return predicted or ran or moderate or list(found)


def _headline(evidence: Evidence, chosen: int) -> str:
    outer_fs = chosen * evidence.time_step_fs
    faster = speed_up(evidence, chosen)
    speed = "a speed that was not measured" if faster is None else f"{faster:.1f} times the speed"
    return (
        f"Use M = {chosen} inner steps of {evidence.time_step_fs:g} fs, an outer step of "
        f"{outer_fs:g} fs: {speed} of the teacher alone."
    )


def _on_energy(evidence: Evidence, chosen: int, standing: Standing) -> str:
    found, run = evidence.predicted.get(chosen), evidence.runs.get(chosen)
    predicted = (
        f"the predicted drift is {with_error(found['value'], found['error'])} meV/atom/ps"
        if found is not None and is_predicted(evidence, chosen)
        else "no drift could be predicted in this time"
    )
    drift = None if run is None else run.get("drift")
    measured = (
        "no real run was long enough to measure it"
        if drift is None
        else f"in a real run it is {with_error(drift['rate'], drift['error'], signed=True)}"
    )
    verdict = {
        "shown": f"the energy is conserved within {evidence.max_drift:g}",
        "not shown": f"that it stays within {evidence.max_drift:g} is not shown",
        "refuted": f"it exceeds {evidence.max_drift:g}",
    }[standing]
    return f"Without a thermostat, {predicted}; {measured}: {verdict}."


def _on_thermostat(evidence: Evidence, chosen: int) -> str:
    finding = evidence.thermostat.get(chosen, "not shown")
    text = "At constant temperature, use global velocity rescaling (SVR) with τ = 10 fs"
    if finding == "safe":
        return f"{text}: every species keeps its temperature."
    if finding == "unsafe":
        return f"{text} and fewer inner steps: with M = {chosen} species have wrong temperatures."
    return f"{text}; that every species keeps its temperature is not shown."


def _on_others(evidence: Evidence, chosen: int) -> list[str]:
    """Say why longer outer steps were not chosen."""
    longer = [m for m in _RANGE if m > chosen]
    refuted = [m for m in longer if standing_of(evidence, m) == "refuted"]
    reasons = []
    if refuted:
        reasons.append(
            f"Real runs with M = {', '.join(map(str, refuted))} gain too much energy or break down."
        )
    rest = [m for m in longer if m not in refuted and reason_against(evidence, m)]
    if rest:
        reasons.append(
            f"M = {rest[0]} is no candidate, because {reason_against(evidence, rest[0])}."
        )
    return reasons


def _on_hydrogen(evidence: Evidence) -> list[str]:
    """Say what heavier hydrogens would allow, if vibrations of hydrogen limit the outer step."""
    if evidence.period_fs is None or evidence.lightest_amu > 1.5 * _HYDROGEN_AMU:
        return []
    ratio = math.sqrt(_HEAVY_AMU / _HYDROGEN_AMU)
    outer_fs = evidence.period_fs * ratio / 2.0
    return [
        f"Vibrations of hydrogen limit the outer step. Heavier hydrogens (--hydrogen-mass 3) would "
        f"move the limit from {evidence.period_fs / 2.0:.1f} to about {outer_fs:.1f} fs without "
        "changing any average of positions; this is an estimate from the masses, not measured here."
    ]


def _none_reasons(evidence: Evidence) -> list[str]:
    first = "Use the teacher alone: no number of inner steps can be recommended with this student."
    against = {m: reason_against(evidence, m) for m in _RANGE}
    refuted = [m for m in _RANGE if standing_of(evidence, m) == "refuted"]
    m = next((m for m, reason in against.items() if "drift" in reason), None)
    if m is not None:
        return [first, f"For M = {m}, {against[m]}.", _MORE_TRAINING]
    if refuted:
        listed = ", ".join(map(str, refuted))
        return [
            first,
            f"Real runs with M = {listed} gain too much energy or break down.",
            _MORE_TRAINING,
        ]
    return [first, *(f"For M = {m}, {reason}." for m, reason in list(against.items())[:1])]
