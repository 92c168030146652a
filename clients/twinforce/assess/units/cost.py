"""The cost of an inner step over the wire, for each way to drive a simulation.

All ways are timed in turn, round by round. Other load on the machine affects all ways of a round
alike, so ratios within rounds are more reliable than the times themselves. The expected ratio is

    t(M) / t_direct = 1 + (F - 1)/M        F = t_conservative / t_direct
"""

import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from twinforce.ase import DirectForcesWarning, ForceDisagreementWarning
from twinforce.assess.analysis.statistics import median_ratio
from twinforce.assess.budget import Deadline
from twinforce.assess.folder import UnitResults, read_results
from twinforce.assess.subject import Conditions, Subject, Unit
from twinforce.assess.units.start import KEY as START
from twinforce.assess.units.start import starting_atoms
from twinforce.assess.ways import Way
from twinforce.md import MDSettings, dynamics_of

KEY = "cost"
_STEPS_PER_ROUND = 16
_OUTPUTS = {
    "direct": ("energy", "direct_forces"),
    "conservative": ("energy", "conservative_forces"),
    "hybrid": ("energy", "conservative_forces", "direct_forces"),
}


def cost_unit(inner_steps: Sequence[int], n_rounds: int, conditions: Conditions) -> Unit:
    """Return the unit that times steps.

    Args:
        inner_steps: Values of M for multiple time stepping.
        n_rounds: Number of rounds.
        conditions: Conditions of the simulations.
    """
    hybrid = (Way("hybrid", each) for each in inner_steps)
    ways = (Way("direct"), Way("conservative"), *hybrid)
    cost = n_rounds * (sum(way.cost() * steps_of(way) for way in ways) + 6.0)
    work = partial(_time, ways, n_rounds, conditions)
    settings = {"ways": [str(way) for way in ways], "steps_per_round": _STEPS_PER_ROUND}
    return Unit(KEY, cost, settings, work, needs_start=True)


def steps_of(way: Way) -> int:
    """Return the number of inner steps to time in each round, a multiple of M."""
    return way.inner_steps * max(_STEPS_PER_ROUND // way.inner_steps, 1)


def _time(
    ways: Sequence[Way],
    n_rounds: int,
    conditions: Conditions,
    subject: Subject,
    directory: Path,
    deadline: Deadline,
) -> UnitResults:
    earlier = read_results(directory)
    rounds: list[dict[str, Any]] = [] if earlier is None else list(earlier.values["rounds"])
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore", DirectForcesWarning)
        warnings.simplefilter("ignore", ForceDisagreementWarning)
        runs = {way: _dynamics(subject, way, conditions, directory, stack) for way in ways}
        bar = stack.enter_context(subject.progress.bar(KEY, n_rounds, len(rounds), "round"))
        for way, dynamics in runs.items():
            dynamics.run(max(1, 2 // way.inner_steps))  # the first evaluations take longer
        # The preparation takes about as long as a round, so it is not left without any.
        while len(rounds) < n_rounds and not (rounds and deadline.is_over):
            rounds.append(_round(subject, runs))
            bar.update()
    return UnitResults({"rounds": rounds} | summarize(ways, rounds), len(rounds) >= n_rounds)


def _dynamics(
    subject: Subject, way: Way, conditions: Conditions, directory: Path, stack: ExitStack
) -> Any:
    settings = MDSettings(
        forces=way.forces,
        inner_steps=way.inner_steps,
        ensemble="svr",
        time_step_fs=conditions.time_step_fs,
        temperature_k=conditions.temperature_k,
        seed=conditions.seed,
    )
    atoms = starting_atoms(subject, directory.parent / START)
    atoms.calc = stack.enter_context(subject.calculator())
    return dynamics_of(atoms, settings)


def _round(subject: Subject, runs: dict[Way, Any]) -> dict[str, Any]:
    """Return times in s of an inner step in each way, of single calls, and of their computation."""
    steps = {}
    for way, dynamics in runs.items():
        n_steps = steps_of(way)
        begin = time.perf_counter()
        dynamics.run(n_steps // way.inner_steps)
        steps[str(way)] = (time.perf_counter() - begin) / n_steps
    calls, computing = {}, {}
    rng = np.random.default_rng()
    with subject.client.stream(subject.info.name) as stream:
        for name, outputs in _OUTPUTS.items():
            durations = []
            for _ in range(2):
                displaced = subject.displaced(rng, 0.003)
                begin = time.perf_counter()
                prediction = stream.predict(subject.system.moved(displaced), outputs)
                durations.append(time.perf_counter() - begin)
            subject.check(prediction.provenance)
            assert prediction.timings is not None
            calls[name], computing[name] = durations[-1], prediction.timings.compute_s
    return {"step_s": steps, "call_s": calls, "compute_s": computing}


def summarize(ways: Sequence[Way], rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians, ratios within rounds with errors, and the expected ratios."""
    if not rounds:
        return {}

    def step(way: Way) -> list[float]:
        return [each["step_s"][str(way)] for each in rounds]

    direct, conservative = step(Way("direct")), step(Way("conservative"))
    f = median_ratio(conservative, direct)
    table = {}
    for way in ways:
        table[str(way)] = {
            "step_ms": _spread(step(way)),
            "over_direct": asdict(median_ratio(step(way), direct)),
            "speed_up_over_conservative": asdict(median_ratio(conservative, step(way))),
            "expected_over_direct": way.cost(f.value),
            "over_expected": asdict(
                median_ratio(
                    step(way),
                    [_expected(way, d, c) for d, c in zip(direct, conservative, strict=True)],
                )
            ),
        }
    calls = {
        name: {
            "call_ms": _spread([each["call_s"][name] for each in rounds]),
            "compute_ms": _spread([each["compute_s"][name] for each in rounds]),
        }
        for name in _OUTPUTS
    }
    computed = [[each["compute_s"][name] for each in rounds] for name in ("conservative", "direct")]
    return {
        "f": asdict(f),
        "f_computing": asdict(median_ratio(*computed)),
        "ways": table,
        "calls": calls,
    }


def _expected(way: Way, direct: float, conservative: float) -> float:
    return direct * way.cost(conservative / direct)


def _spread(seconds: list[float]) -> dict[str, float]:
    """Return the median and the middle 68% of times, in ms."""
    low, middle, high = np.percentile(np.array(seconds) * 1e3, [15.87, 50.0, 84.13])
    return {"median": float(middle), "low": float(low), "high": float(high)}
