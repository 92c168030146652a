"""Access to the content of a report: its units, and how each of them was driven."""

from collections.abc import Mapping
from typing import Any

from twinforce.assess.ways import Thermostat, Way, parse_thermostat, parse_way

Report = Mapping[str, Any]


def unit_of(report: Report, key: str) -> Report:
    """Return the results of a unit, or an empty mapping if it was not run."""
    unit: Report = report["pieces"].get(key.partition(":")[0], {}).get(key, {})
    return unit


def units_of(report: Report, piece: str, needed: str) -> dict[str, Report]:
    """Return the units of a piece, by key, that have this value."""
    units = report["pieces"].get(piece, {})
    return {key: unit for key, unit in units.items() if unit.get(needed) is not None}


def resonance_of(report: Report) -> Report:
    """Return the prediction of heating by outer steps, or an empty mapping.

    If simulations with different strides predict the drift of an M, the shortest stride counts.
    """
    units = units_of(report, "resonance", "drifts")
    merged: dict[str, Any] = {}
    drifts: dict[str, Any] = {}
    for unit in sorted(units.values(), key=lambda each: -each.get("stride", 1)):
        merged |= unit
        drifts |= unit["drifts"]
    in_order = dict(sorted(drifts.items(), key=lambda each: int(each[0])))
    return merged | {"drifts": in_order} if units else {}


def way_of(key: str) -> Way:
    """Return how a simulation with this key was driven."""
    return parse_way(key.split(":")[1])


def thermostat_of(key: str) -> Thermostat:
    """Return the thermostat of a simulation with this key."""
    return parse_thermostat(key.split(":", 2)[2])


def title_of(key: str) -> str:
    """Return the title of a unit in figures and tables."""
    piece, _, rest = key.partition(":")
    if piece == "nve":
        return way_of(key).title
    if piece == "nvt":
        return f"{way_of(key).title}; {thermostat_of(key).title}"
    if piece == "resonance" and rest:
        return f"corrected every {rest} steps"
    return rest or piece
