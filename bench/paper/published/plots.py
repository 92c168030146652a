"""Plots of all models together."""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.figure import Figure

from bench.paper import reference
from bench.paper.published.claims import SVR, deviation
from twinforce.assess.report.content import Report, resonance_of, title_of, units_of

Reports = Mapping[str, Report]
# Colors of Okabe and Ito, which color-blind readers can distinguish.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_GRAY = "#888888"


def draw_nve(reports: Reports) -> Figure | None:
    """Draw the change of the total energy of all simulations without a thermostat."""
    lines = {
        f"{name}, {title_of(key)}": unit
        for name, report in reports.items()
        for key, unit in units_of(report, "nve", "time_ps").items()
    }
    if not lines:
        return None
    figure = Figure(figsize=(7.0, 3.4), layout="constrained")
    axes = figure.subplots()
    for index, (label, unit) in enumerate(lines.items()):
        color = _COLORS[index % len(_COLORS)]
        values = np.array(unit["change_mev_per_atom"], dtype=float)
        axes.plot(unit["time_ps"], values, color=color, label=label, linewidth=1.2)
    axes.set(xlabel="time (ps)", ylabel="total energy, change (meV/atom)")
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_nvt(reports: Reports) -> Figure | None:
    """Draw the deviation of each species with SVR, τ = 10 fs, beside those of the paper."""
    bars = [
        (f"{name}\n{way}, {symbol}", found)
        for name, report in reports.items()
        for way in ("direct", "conservative")
        for symbol in report["atoms"]["counts"]
        if (found := deviation(report, f"nvt:{way}:{SVR}", symbol))
    ]
    if not bars:
        return None
    figure = Figure(figsize=(7.0, 3.4), layout="constrained")
    axes = figure.subplots()
    for index, (_, (value, error, _good)) in enumerate(bars):
        axes.errorbar(index, value, 2.0 * error, fmt="o", color=_COLORS[0], capsize=3)
    theirs = [
        (f"paper, ORB-v2\ndirect, {name}", value) for name, value in reference.ORB_SPECIES_K.items()
    ]
    for index, (_, value) in enumerate(theirs, len(bars)):
        axes.plot(index, value, "s", color=_COLORS[1])
    axes.axhline(0.0, color=_GRAY, linewidth=0.8)
    labels = [label for label, _ in (*bars, *theirs)]
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.set_ylabel("T - target ± 2σ (K)")
    return figure


def draw_resonance(reports: Reports) -> Figure | None:
    """Draw the predicted heating by outer steps, with direct forces of another model inside."""
    found = {
        name: resonance_of(report)["drifts"]
        for name, report in reports.items()
        if resonance_of(report)
    }
    if not found:
        return None
    figure = Figure(figsize=(6.0, 3.2), layout="constrained")
    axes = figure.subplots()
    for color, (name, drifts) in zip(_COLORS, found.items(), strict=False):
        values = [each["value"] for each in drifts.values()]
        errors = [2.0 * (each["error"] or 0.0) for each in drifts.values()]
        axes.errorbar(
            [int(each) for each in drifts], values, errors, fmt="o-", color=color, label=name
        )
        limit = reports[name]["thresholds"]["max_drift"]
        axes.axhline(limit, color=_GRAY, linewidth=0.8)
    axes.set(xlabel="M", ylabel="predicted drift ± 2σ (meV/atom/ps)", yscale="log")
    axes.legend(frameon=False, fontsize=8)
    return figure


PLOTS: Mapping[str, Callable[[Reports], Figure | None]] = {
    "nve": draw_nve,
    "nvt": draw_nvt,
    "resonance": draw_resonance,
}
