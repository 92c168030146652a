"""What to do, in sentences, from judgements alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from twinforce.assess.ways import Way, parse_thermostat, parse_way

Finding = Literal["safe", "unsafe", "not shown"]
Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Judgement:
    """One answer.

    Attributes:
        topic: Such as "energy".
        subject: What it is about, such as "nve:direct".
        finding: The answer.
        reason: The numbers behind it.
    """

    topic: str
    subject: str
    finding: Finding
    reason: str


def advice_on(report: Report, judgements: tuple[Judgement, ...]) -> Iterator[str]:
    """Yield sentences on what to do, the most important first."""
    by_topic = {(each.topic, each.subject): each for each in judgements}
    yield _advice_on_energy(by_topic)
    yield from _advice_on_temperature(report, by_topic)
    for strategy in ("direct", "hybrid", "conservative"):
        found = by_topic.get(("optimisation", f"optimise:{strategy}"))
        if found is not None:
            yield f"Optimisation with {strategy} forces: {found.finding} ({found.reason})."
    yield from _advice_on_steps(judgements)


def _advice_on_energy(by_topic: Mapping[tuple[str, str], Judgement]) -> str:
    found = {subject: each for (topic, subject), each in by_topic.items() if topic == "energy"}
    safe = [way_of(key).title for key, each in found.items() if each.finding == "safe"]
    unsafe = [way_of(key).title for key, each in found.items() if each.finding == "unsafe"]
    unknown = [way_of(key).title for key, each in found.items() if each.finding == "not shown"]
    parts = [
        f"{label}: {'; '.join(names)}"
        for label, names in (("safe", safe), ("unsafe", unsafe), ("not shown", unknown))
        if names
    ]
    return f"Without a thermostat {'. '.join(parts) or 'nothing is shown'}."


def _advice_on_temperature(
    report: Report, by_topic: Mapping[tuple[str, str], Judgement]
) -> Iterator[str]:
    """Recommend the cheapest way and the thermostat under which all that was shown is safe."""
    found = {subject: each for (topic, subject), each in by_topic.items() if topic == "temperature"}
    if not found:
        return
    safe = [key for key, each in found.items() if each.finding == "safe"]
    gentle = [key for key in safe if _leaves_motion_alone(key, by_topic)]
    if gentle:
        key = min(gentle, key=lambda each: way_of(each).cost())
        thermostat = parse_thermostat(key.split(":", 2)[2])
        step = report["conditions"]["time_step_fs"]
        yield (
            f"At constant temperature use {way_of(key).title} with {thermostat.title} and steps "
            f"of {step:g} fs: every species keeps its temperature ({found[key].reason})."
        )
    else:
        yield "At constant temperature nothing is shown to be safe yet."
    for key, each in found.items():
        if each.finding == "unsafe":
            yield f"{_title_of(key)} is unsafe: {each.reason} from where it should be."
    for key in safe:
        motion = by_topic.get(("motion", key))
        if key not in gentle and motion is not None and motion.finding == "unsafe":
            yield (
                f"{_title_of(key)} keeps temperatures but slows motion: diffusion is "
                f"{motion.reason}."
            )
        elif key not in gentle:
            yield f"{_title_of(key)} keeps temperatures; what it does to motion is not shown."


def _leaves_motion_alone(key: str, by_topic: Mapping[tuple[str, str], Judgement]) -> bool:
    """Return whether a run may be recommended as to motion.

    Friction and noise on each atom change how it moves, and so do forces that are no gradient:
    there it must have been shown that motion is what it should be. Elsewhere it must not have
    been shown to be wrong.
    """
    motion = by_topic.get(("motion", key))
    is_gentle = (
        parse_thermostat(key.split(":", 2)[2]).ensemble == "svr" and way_of(key).forces != "direct"
    )
    if motion is None:
        return is_gentle
    return motion.finding == "safe" or (is_gentle and motion.finding != "unsafe")


def _advice_on_steps(judgements: tuple[Judgement, ...]) -> Iterator[str]:
    for each in judgements:
        if each.topic in ("time step", "outer step") and each.finding != "not shown":
            yield f"{each.topic.capitalize()} of {each.subject}: {each.finding} ({each.reason})."


def way_of(key: str) -> Way:
    """Return how the run of this key was driven."""
    return parse_way(key.split(":")[1])


def _title_of(key: str) -> str:
    return f"{way_of(key).title} with {parse_thermostat(key.split(':', 2)[2]).title}"
