"""The plan of an assessment: the units of each preset, and the units that selectors name."""

from collections.abc import Sequence
from dataclasses import dataclass

from twinforce.assess.subject import Subject, Unit
from twinforce.assess.units.cost import cost_unit
from twinforce.assess.units.loops import loops_unit
from twinforce.assess.units.nonconservativity import client_unit, server_unit
from twinforce.assess.units.nve import nve_unit
from twinforce.assess.units.nvt import nvt_unit
from twinforce.assess.units.optimize import STRATEGIES, optimize_unit
from twinforce.assess.units.resonance import resonance_unit
from twinforce.assess.units.start import start_unit
from twinforce.assess.ways import Way, parse_thermostat, parse_way

# Piece -> its share of the time, in the order in which pieces are run.
SHARES = {"lambda": 5, "loops": 3, "cost": 6, "optimise": 16, "resonance": 6, "nve": 22, "nvt": 42}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The amount of work in an assessment.

    Attributes:
        n_loops: Number of closed paths.
        n_rounds: Number of rounds of timing.
        inner_steps: Values of M to time, and to simulate without a thermostat.
        n_starts: Number of starting points of optimizations.
        max_steps: Maximum number of steps of an optimization.
        resonance_ps: Length of the simulation that predicts the heating by outer steps, in ps.
        nve_ps: Length of each simulation without a thermostat, in ps.
        nvt_ps: Length of each simulation with a thermostat, in ps.
        nvt: Ways to drive the simulations with a thermostat, each with its thermostats, by name.
    """

    n_loops: int
    n_rounds: int
    inner_steps: tuple[int, ...]
    n_starts: int
    max_steps: int
    resonance_ps: float
    nve_ps: float
    nvt_ps: float
    nvt: tuple[tuple[str, tuple[str, ...]], ...]


PRESETS = {
    "quick": Preset(
        n_loops=4,
        n_rounds=8,
        inner_steps=(4, 8),
        n_starts=4,
        max_steps=200,
        resonance_ps=0.5,
        nve_ps=1.0,
        nvt_ps=2.0,
        nvt=(("direct", ("svr:10",)), ("hybrid-8", ("svr:10",)), ("conservative", ("svr:10",))),
    ),
    "standard": Preset(
        n_loops=8,
        n_rounds=20,
        inner_steps=(2, 4, 8, 16),
        n_starts=8,
        max_steps=400,
        resonance_ps=2.0,
        nve_ps=5.0,
        nvt_ps=20.0,
        nvt=(
            ("direct", ("svr:10", "langevin:100")),
            ("hybrid-8", ("svr:10", "svr:100", "langevin:100")),
            ("conservative", ("svr:10",)),
        ),
    ),
    "paper": Preset(
        n_loops=16,
        n_rounds=40,
        inner_steps=(2, 4, 8, 16),
        n_starts=16,
        max_steps=600,
        resonance_ps=4.0,
        nve_ps=10.0,
        nvt_ps=50.0,
        nvt=(
            ("direct", ("svr:10", "svr:100", "langevin:1000", "langevin:100", "langevin:10")),
            ("hybrid-4", ("svr:10",)),
            ("hybrid-8", ("svr:10", "svr:100", "langevin:100", "langevin:10")),
            ("conservative", ("svr:10", "langevin:100")),
        ),
    ),
}


def plan(subject: Subject, preset: Preset, selectors: Sequence[str] = ()) -> list[Unit]:
    """Return the units to run, in order; the equilibration comes first if any unit needs it.

    Args:
        subject: The model and the system to assess.
        preset: The amount of work.
        selectors: Pieces such as "nvt", units such as "nvt:hybrid-4:svr:10", or groups of units
            such as "nvt:direct". Units need not be part of the preset. Empty selects everything.

    Raises:
        ValueError: A selector names neither a piece nor a unit.
    """
    defaults = _preset_units(subject, preset)
    if not selectors:
        chosen = defaults
    else:
        selected = {
            unit.key: unit
            for selector in selectors
            for unit in _select(subject, preset, defaults, selector)
        }
        order = list(SHARES)
        chosen = sorted(selected.values(), key=lambda unit: order.index(unit.piece))
    needs_start = any(unit.needs_start for unit in chosen)
    return [start_unit(subject), *chosen] if needs_start else chosen


def weights(units: Sequence[Unit]) -> list[float]:
    """Return the share of the time of each unit: by `SHARES` among pieces, by cost within one."""
    totals: dict[str, float] = {}
    for unit in units:
        totals[unit.piece] = totals.get(unit.piece, 0.0) + unit.cost
    return [SHARES.get(unit.piece, 0) * unit.cost / (totals[unit.piece] or 1.0) for unit in units]


def _preset_units(subject: Subject, preset: Preset) -> list[Unit]:
    conditions = subject.conditions
    hybrid = [Way("hybrid", each) for each in preset.inner_steps]
    return [
        server_unit(subject),
        client_unit(subject),
        loops_unit(preset.n_loops, conditions),
        cost_unit(preset.inner_steps, preset.n_rounds, conditions),
        *(
            optimize_unit(
                each, preset.n_starts, subject.conditions.fmax, preset.max_steps, conditions
            )
            for each in STRATEGIES
        ),
        resonance_unit(preset.resonance_ps, conditions),
        *(
            nve_unit(way, preset.nve_ps, conditions)
            for way in (Way("conservative"), Way("direct"), *hybrid)
        ),
        *(
            nvt_unit(parse_way(way), parse_thermostat(each), preset.nvt_ps, conditions)
            for way, thermostats in preset.nvt
            for each in thermostats
        ),
    ]


def _select(subject: Subject, preset: Preset, defaults: list[Unit], selector: str) -> list[Unit]:
    """Return the units that a selector names; they need not be among the default units."""
    piece, _, rest = selector.partition(":")
    if piece not in SHARES:
        raise ValueError(f"pieces: expected {', '.join(SHARES)} or a unit of one, got {selector!r}")
    matching = [unit for unit in defaults if f"{unit.key}:".startswith(f"{selector}:")]
    if matching:
        return matching
    if piece == "nve":
        return [nve_unit(parse_way(rest), preset.nve_ps, subject.conditions)]
    if piece == "nvt":
        way, _, thermostat = rest.partition(":")
        drive = parse_way(way), parse_thermostat(thermostat)
        return [nvt_unit(*drive, preset.nvt_ps, subject.conditions)]
    if piece == "resonance" and rest.isdecimal() and int(rest) > 1:
        return [resonance_unit(preset.resonance_ps, subject.conditions, int(rest))]
    known = ", ".join(unit.key for unit in defaults if unit.piece == piece)
    raise ValueError(f"pieces: expected {piece} or one of {known}, got {selector!r}")
