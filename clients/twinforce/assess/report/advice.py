"""Advice in sentences, derived from judgments alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from twinforce.assess.report.content import Report, thermostat_of, way_of

Finding = Literal["safe", "unsafe", "not shown"]

# Topic of judgments on geometry optimizations, as report.json has spelled it from the start.
OPTIMIZATION = "optimisation"


@dataclass(frozen=True, slots=True)
class Judgment:
    """A finding on one subject, with its reason.

    Attributes:
        topic: Topic, such as "energy" or `OPTIMIZATION`.
        subject: Subject of the finding, such as "nve:direct".
        finding: "safe", "unsafe" or "not shown".
        reason: The numbers from which the finding follows.
    """

    topic: str
    subject: str
    finding: Finding
    reason: str


def advice_on(report: Report, judgments: Sequence[Judgment]) -> Iterator[str]:
    """Yield sentences of advice, the most important first."""
    yield _advice_on_energy(_by_subject(judgments, "energy"))
    yield from _advice_on_temperature(
        report, _by_subject(judgments, "temperature"), _by_subject(judgments, "motion")
    )
    optimizations = _by_subject(judgments, OPTIMIZATION)
    for strategy in ("direct", "hybrid", "conservative"):
        if judgment := optimizations.get(f"optimise:{strategy}"):
            yield f"Optimization with {strategy} forces: {judgment.finding} ({judgment.reason})."
    yield from _advice_on_steps(judgments)


def _by_subject(judgments: Sequence[Judgment], topic: str) -> dict[str, Judgment]:
    return {each.subject: each for each in judgments if each.topic == topic}


def _advice_on_energy(energy: Mapping[str, Judgment]) -> str:
    findings: tuple[Finding, ...] = ("safe", "unsafe", "not shown")
    titles = {
        finding: [way_of(key).title for key, each in energy.items() if each.finding == finding]
        for finding in findings
    }
    parts = [f"{finding} ({'; '.join(names)})" for finding, names in titles.items() if names]
    if not parts:
        return "Without a thermostat, nothing has been shown."
    return f"Without a thermostat: {', '.join(parts)}."


def _advice_on_temperature(
    report: Report, temperature: Mapping[str, Judgment], motion: Mapping[str, Judgment]
) -> Iterator[str]:
    """Recommend the cheapest way and thermostat for which everything that was shown is safe."""
    if not temperature:
        return
    safe = [key for key, each in temperature.items() if each.finding == "safe"]
    recommendable = [key for key in safe if _preserves_motion(key, motion.get(key))]
    if recommendable:
        key = min(recommendable, key=lambda each: way_of(each).cost())
        step = report["conditions"]["time_step_fs"]
        yield (
            f"At constant temperature, use {_title_of(key)} and a time step of {step:g} fs: "
            f"every species keeps the target temperature ({temperature[key].reason})."
        )
    else:
        yield "At constant temperature, nothing has been shown to be safe yet."
    for key, each in temperature.items():
        if each.finding == "unsafe":
            yield f"{_title_of(key)} is unsafe ({each.reason})."
    for key in safe:
        if key in recommendable:
            continue
        judgment = motion.get(key)
        if judgment is not None and judgment.finding == "unsafe":
            yield (
                f"{_title_of(key)} keeps the target temperature but slows motion "
                f"({judgment.reason})."
            )
        else:
            yield (
                f"{_title_of(key)} keeps the target temperature; its effect on motion is not shown."
            )


def _preserves_motion(key: str, judgment: Judgment | None) -> bool:
    """Return True if motion is no reason against recommending a simulation.

    Friction and noise on each atom change how it moves, and so do forces that are not a gradient:
    with them, motion must have been shown to be right. Otherwise it suffices that motion has not
    been shown to be wrong.
    """
    is_gentle = thermostat_of(key).ensemble == "svr" and way_of(key).forces != "direct"
    if judgment is None:
        return is_gentle
    return judgment.finding == "safe" or (is_gentle and judgment.finding != "unsafe")


def _advice_on_steps(judgments: Sequence[Judgment]) -> Iterator[str]:
    for each in judgments:
        if each.topic in ("time step", "outer step") and each.finding != "not shown":
            yield f"{each.topic.capitalize()} of {each.subject}: {each.finding} ({each.reason})."


def _title_of(key: str) -> str:
    return f"{way_of(key).title} with {thermostat_of(key).title}"
