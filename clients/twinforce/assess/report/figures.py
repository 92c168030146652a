"""The figures of a report, drawn from its numbers alone."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from twinforce.assess.analysis.motion import wave_number
from twinforce.assess.analysis.statistics import Floats
from twinforce.assess.report.content import Report, resonance_of, title_of, unit_of, units_of
from twinforce.assess.report.verdict import deviations_of
from twinforce.assess.ways import parse_way

# Colors of Okabe and Ito, which color-blind readers can distinguish, on light and dark backgrounds.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d46")
_GRAY = "#888888"
_DRIFT = "drift ± 2σ (meV/atom/ps)"


def draw_lambda(report: Report) -> Figure | None:
    """Draw the response of pairs of atoms to each other, and its non-conservative part."""
    server = unit_of(report, "lambda:server")
    client = unit_of(report, "lambda:client").get("direct", {})
    noise = unit_of(report, "lambda:client").get("conservative", {})
    if not (server.get("pairs") or client.get("pairs")):
        return None
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    pairs = server.get("pairs") or client["pairs"]
    left.plot(pairs["distances"], pairs["norms"], color=_COLORS[0], label="‖J‖ of a pair")
    left.plot(
        pairs["distances"], pairs["antisymmetric_norms"], color=_COLORS[1], label="‖(J - Jᵀ)/2‖"
    )
    left.set(xlabel="distance (Å)", ylabel="root mean square (eV/Å²)")
    _use_log_scale(left)
    _legend(left)
    lines = (
        ("direct, service", server),
        ("direct, finite differences", client),
        ("conservative, finite differences", noise),
    )
    for (label, found), color, style in zip(lines, _COLORS[1:], ("-", "--", ":"), strict=False):
        if found.get("pairs"):
            pairs = found["pairs"]
            right.plot(pairs["distances"], pairs["lambdas"], style, color=color, label=label)
    right.set(xlabel="distance (Å)", ylabel="λ of pairs")
    _use_log_scale(right)
    _legend(right)
    return figure


def draw_loops(report: Report) -> Figure | None:
    """Draw the work around each closed path."""
    loops = unit_of(report, "loops").get("loops")
    if not loops:
        return None
    per_atom = 1e3 / sum(report["atoms"]["free_counts"].values())
    figure = Figure(figsize=(8.0, 3.0), layout="constrained")
    axes = figure.subplots()
    for offset, kind, color in ((-0.2, "conservative", _COLORS[0]), (0.2, "direct", _COLORS[1])):
        found = [each[f"{kind}_forces"] for each in loops]
        x = np.arange(len(found)) + 1 + offset
        work = [abs(each["work"]) * per_atom for each in found]
        axes.bar(x, work, 0.38, color=color, label=f"{kind} forces")
        errors = [max(each["quadrature_error"] * per_atom, 1e-12) for each in found]
        axes.plot(x, errors, "_", color=_GRAY, markersize=9)
    axes.plot([], [], "_", color=_GRAY, label="quadrature error")
    axes.set(xlabel="closed path", ylabel="|work| (meV/atom)")
    _use_log_scale(axes)
    _legend(axes)
    return figure


def draw_resonance(report: Report) -> Figure | None:
    """Draw the power absorbed at each modulation frequency, and the drift predicted for each M."""
    unit = resonance_of(report)
    if not unit.get("drifts"):
        return None
    has_spectrum = "heating" in unit
    figure = Figure(figsize=(8.0 if has_spectrum else 4.5, 3.4), layout="constrained")
    *left, right = figure.subplots(1, 2 if has_spectrum else 1, squeeze=False)[0]
    step_fs = report["conditions"]["time_step_fs"]
    for axes in left:
        _draw_power(axes, unit, step_fs)
    outer_fs = [int(inner_steps) * step_fs for inner_steps in unit["drifts"]]
    values = _floats([each["value"] for each in unit["drifts"].values()])
    errors = [2 * (each["error"] or 0.0) for each in unit["drifts"].values()]
    right.errorbar(
        outer_fs, values, errors, fmt="o-", color=_COLORS[0], markersize=4, label="predicted"
    )
    measured = {
        int(inner_steps) * step_fs: drift
        for inner_steps in unit["drifts"]
        if (drift := unit_of(report, f"nve:hybrid-{inner_steps}").get("drift"))
    }
    if measured:
        right.errorbar(
            list(measured),
            [each["rate"] for each in measured.values()],
            [2 * each["error"] for each in measured.values()],
            fmt="s",
            color=_COLORS[1],
            markersize=5,
            label="measured",
        )
    limit = report["thresholds"]["max_drift"]
    right.axhspan(right.get_ylim()[0], limit, color=_GRAY, alpha=0.25, linewidth=0)
    right.set(xlabel="outer step (fs)", ylabel=_DRIFT)
    _use_log_scale(right)
    _legend(right)
    return figure


def _draw_power(axes: Any, unit: Report, step_fs: float) -> None:
    axes.plot(unit["wave_numbers"], unit["heating"], color=_COLORS[0], linewidth=1.0)
    for inner_steps in (4, 6, 8, 12):
        frequency = wave_number(inner_steps * step_fs)
        axes.axvline(frequency, color=_GRAY, linewidth=0.7)
        axes.annotate(
            f"M = {inner_steps}",
            (frequency, 1.0),
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            ha="right",
            fontsize=7,
        )
    axes.set(xlabel="modulation frequency (1/cm)", ylabel="absorbed power (meV/atom/ps)")
    axes.set_xlim(0.0, wave_number(3.5 * step_fs))
    _use_log_scale(axes)


def draw_nve(report: Report) -> Figure | None:
    """Draw the total energy against time, and its drifts."""
    units = units_of(report, "nve", "time_ps")
    if not units:
        return None
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    limit = report["thresholds"]["max_drift"]
    changes = {key: _floats(unit["change_mev_per_atom"]) for key, unit in units.items()}
    for (key, unit), color in zip(units.items(), itertools.cycle(_COLORS), strict=False):
        left.plot(unit["time_ps"], changes[key], color=color, label=title_of(key))
    if max(np.nan_to_num(np.abs(each)).max() for each in changes.values()) > 5.0:
        left.set_yscale("symlog", linthresh=1.0)
    left.set(xlabel="time (ps)", ylabel="change in total energy (meV/atom)")
    _legend(left)
    drifting = {key: unit["drift"] for key, unit in units.items() if unit["drift"]}
    for row, (key, drift) in enumerate(drifting.items()):
        color = _COLORS[list(units).index(key) % len(_COLORS)]
        right.errorbar(drift["rate"], row, xerr=2 * drift["error"], fmt="o", color=color)
    right.axvspan(-limit, limit, color=_GRAY, alpha=0.25, linewidth=0)
    right.set_xscale("symlog", linthresh=limit)
    right.set_yticks(range(len(drifting)), [title_of(key) for key in drifting])
    right.invert_yaxis()
    right.set_xlabel(_DRIFT)
    return figure


def draw_temperatures(report: Report) -> Figure | None:
    """Draw the deviation of each species from its expected temperature."""
    units = units_of(report, "nvt", "species_temperatures")
    target = report["conditions"]["temperature_k"]
    deviations = {key: each for key, unit in units.items() if (each := deviations_of(unit, target))}
    if not deviations:
        return None
    symbols = sorted({symbol for each in deviations.values() for symbol in each})
    figure = Figure(figsize=(8.0, 1.4 + 0.42 * len(deviations)), layout="constrained")
    axes = figure.subplots()
    limit = report["thresholds"]["max_temperature_error"]
    axes.axvspan(-limit, limit, color=_GRAY, alpha=0.25, linewidth=0)
    for index, symbol in enumerate(symbols):
        points = [
            (row, *each[symbol]) for row, each in enumerate(deviations.values()) if symbol in each
        ]
        shift = 0.24 * (index - (len(symbols) - 1) / 2)
        axes.errorbar(
            [value for _, value, _, _ in points],
            [row + shift for row, _, _, _ in points],
            xerr=[2 * error for _, _, error, _ in points],
            fmt="o",
            color=_COLORS[index % len(_COLORS)],
            label=symbol,
        )
    axes.set_yticks(range(len(deviations)), [title_of(key) for key in deviations])
    axes.set_ylim(len(deviations) - 0.5, -0.5)
    axes.set_xlabel("deviation from the expected temperature ± 2σ (K)")
    _legend(axes)
    return figure


def draw_motion(report: Report) -> Figure | None:
    """Draw diffusion coefficients."""
    units = units_of(report, "nvt", "diffusion")
    symbols = list(report["atoms"]["counts"])
    known = {
        key: unit
        for key, unit in units.items()
        if any(each["value"] is not None for each in unit["diffusion"].values())
    }
    if not known:
        return None
    figure = Figure(figsize=(8.0, 1.4 + 0.42 * len(known)), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(symbols)
    for index, symbol in enumerate(symbols):
        found = [unit["diffusion"][symbol] for unit in known.values()]
        values = [np.nan if each["value"] is None else each["value"] for each in found]
        errors = [np.nan if each["error"] is None else each["error"] for each in found]
        y = np.arange(len(found)) + (index - (len(symbols) - 1) / 2) * width
        color = _COLORS[index % len(_COLORS)]
        axes.barh(y, values, width, xerr=errors, ecolor=_GRAY, label=symbol, color=color)
    axes.set_yticks(range(len(known)), [title_of(key) for key in known])
    axes.invert_yaxis()
    axes.set_xlabel("diffusion coefficient (Å²/ps)")
    _legend(axes)
    return figure


def draw_spectra(report: Report) -> Figure | None:
    """Draw the velocity spectra of the species that vibrates fastest."""
    units = units_of(report, "nvt", "largest_wave_number")
    frequencies = unit_of(report, "start").get("square_frequencies", {})
    symbol = max(report["atoms"]["counts"], key=lambda each: frequencies.get(each) or 0.0)
    spectra = {
        key: spectrum for key, unit in units.items() if (spectrum := unit["spectra"].get(symbol))
    }
    if not spectra:
        return None
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    axes = figure.subplots()
    for (key, spectrum), color in zip(spectra.items(), itertools.cycle(_COLORS), strict=False):
        label = title_of(key)
        axes.plot(spectrum["wave_numbers"], spectrum["density"], color=color, lw=1, label=label)
    largest = max(spectrum["highest"] for spectrum in spectra.values())
    axes.set(
        xlabel="wave number (1/cm)",
        ylabel=f"velocity spectrum of {symbol}",
        xlim=(0, 1.3 * largest + 1),
    )
    _legend(axes)
    return figure


def draw_radial(report: Report) -> Figure | None:
    """Draw radial distribution functions of every pair of species."""
    units = units_of(report, "nvt", "radial")
    names = list(dict.fromkeys(name for unit in units.values() for name in unit["radial"]))[:6]
    if not names:
        return None
    n_columns = min(len(names), 3)
    n_rows = -(-len(names) // n_columns)
    figure = Figure(figsize=(8.0, 2.7 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    for name, axes in zip(names, grid.ravel(), strict=False):
        for (key, unit), color in zip(units.items(), itertools.cycle(_COLORS), strict=False):
            if radial := unit["radial"].get(name):
                axes.plot(
                    radial["distances"],
                    radial["values"],
                    color=color,
                    linewidth=1,
                    label=title_of(key),
                )
        axes.set(xlabel="distance (Å)", ylabel=f"g({name})")
        if "H" in name.split("-"):
            axes.set_ylim(0, 4)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False, fontsize=7)
    return figure


def draw_optimization(report: Report) -> Figure | None:
    """Draw success rates, numbers of evaluations and final forces of optimizations."""
    units = units_of(report, "optimise", "success_rate")
    if not units:
        return None
    figure = Figure(figsize=(8.0, 2.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    names = [title_of(key) for key in units]
    rates = [unit["success_rate"] for unit in units.values()]
    errors = [unit["success_error"] for unit in units.values()]
    left.bar(names, rates, yerr=errors, ecolor=_GRAY, color=_COLORS[0])
    left.set(ylim=(0, 1.05), ylabel="fraction at a minimum")
    direct = np.array([unit["n_direct"] for unit in units.values()])
    conservative = np.array([unit["n_conservative"] for unit in units.values()])
    middle.bar(names, direct, color=_COLORS[1], label="direct")
    middle.bar(names, conservative, bottom=direct, color=_COLORS[0], label="conservative")
    middle.set_ylabel("evaluations")
    _legend(middle)
    for index, unit in enumerate(units.values()):
        largest = _floats([each["largest_force"] for each in unit["starts"].values()])
        right.plot([index] * len(largest), largest, "o", color=_COLORS[2], markersize=4)
    right.axhline(next(iter(units.values()))["fmax"], color=_GRAY, linestyle="--")
    right.set_xticks(range(len(names)), names)
    right.set_ylabel("largest force at the end (eV/Å)")
    _use_log_scale(right)
    for axes in (left, middle, right):
        axes.tick_params(axis="x", labelsize=7)
    return figure


def draw_cost(report: Report) -> Figure | None:
    """Draw the cost of an inner step beside the expected cost."""
    ways = unit_of(report, "cost").get("ways")
    if not ways:
        return None
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    axes = figure.subplots()
    x = np.arange(len(ways))
    values = _floats([each["over_direct"]["value"] for each in ways.values()])
    errors = [each["over_direct"]["error"] or 0.0 for each in ways.values()]
    axes.bar(x, values, 0.6, yerr=errors, ecolor=_GRAY, color=_COLORS[0], label="measured")
    expected = _floats([each["expected_over_direct"] for each in ways.values()])
    axes.plot(x, expected, "_", color=_COLORS[1], markersize=34, markeredgewidth=2)
    axes.plot([], [], "_", color=_COLORS[1], markersize=12, label="1 + (F - 1)/M")
    axes.set_xticks(x, [parse_way(key).title for key in ways])
    axes.set_ylabel("inner step, relative to direct")
    _legend(axes)
    return figure


# Piece -> name of each figure -> function that draws it; None means that there is nothing to draw.
FIGURES: Mapping[str, Mapping[str, Callable[[Report], Figure | None]]] = {
    "lambda": {"lambda": draw_lambda},
    "loops": {"loops": draw_loops},
    "cost": {"cost": draw_cost},
    "optimise": {"optimise": draw_optimization},
    "resonance": {"resonance": draw_resonance},
    "nve": {"nve": draw_nve},
    "nvt": {
        "temperatures": draw_temperatures,
        "motion": draw_motion,
        "spectra": draw_spectra,
        "radial": draw_radial,
    },
}


def _floats(values: Sequence[float | None]) -> Floats:
    """Return numbers for a plot; those that are not defined become NaN and are not drawn."""
    return np.array(values, dtype=np.float64)


def _use_log_scale(axes: Any) -> None:
    """Use a logarithmic y axis, unless nothing on it is positive."""
    if np.isfinite(axes.dataLim.minposy):
        axes.set_yscale("log")


def _legend(axes: Any) -> None:
    """Put a legend above the axes, where it covers nothing."""
    n_columns = 2 if axes.get_subplotspec().get_gridspec().ncols > 1 else 4
    position = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "ncols": n_columns}
    axes.legend(frameon=False, fontsize=7, borderaxespad=0.2, columnspacing=1.2, **position)
