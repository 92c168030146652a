"""Figures of a report, each one of numbers that the report holds."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from twinforce.assess.analysis.motion import wave_number
from twinforce.assess.report.verdict import deviations_of, units_of
from twinforce.assess.ways import parse_thermostat, parse_way

Report = Mapping[str, Any]

# Of Okabe and Ito: told apart by all readers, on light and dark ground.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d46")
_GRAY = "#888888"


def title_of(key: str) -> str:
    """Return what a unit is called in figures and tables."""
    piece, _, rest = key.partition(":")
    if piece == "nve":
        return parse_way(rest).title
    if piece == "nvt":
        way, _, thermostat = rest.partition(":")
        return f"{parse_way(way).title}; {parse_thermostat(thermostat).title}"
    return rest or piece


def draw_lambda(report: Report) -> Figure | None:
    """Draw how pairs of atoms answer to each other, and how much of it is no gradient."""
    units = report["pieces"].get("lambda", {})
    server = units.get("lambda:server", {})
    client = units.get("lambda:client", {}).get("direct", {})
    noise = units.get("lambda:client", {}).get("conservative", {})
    if not (server.get("pairs") or client.get("pairs")):
        return None
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    pairs = server.get("pairs") or client["pairs"]
    left.semilogy(pairs["distances"], pairs["norms"], color=_COLORS[0], label="‖J‖ of a pair")
    left.semilogy(
        pairs["distances"], pairs["antisymmetric_norms"], color=_COLORS[1], label="‖(J - Jᵀ)/2‖"
    )
    left.set(xlabel="distance (Å)", ylabel="root mean square (eV/Å²)")
    _legend(left)
    lines = (("service", server), ("differences", client), ("conservative, differences", noise))
    for (label, found), color, style in zip(lines, _COLORS[1:], ("-", "--", ":"), strict=False):
        if found.get("pairs"):
            at = found["pairs"]
            right.semilogy(at["distances"], at["lambdas"], style, color=color, label=label)
    right.set(xlabel="distance (Å)", ylabel="λ of pairs")
    _legend(right)
    return figure


def draw_loops(report: Report) -> Figure | None:
    """Draw the work around each closed path."""
    loops = report["pieces"].get("loops", {}).get("loops", {}).get("loops")
    if not loops:
        return None
    per_atom = 1e3 / report["atoms"]["n_atoms"]
    figure = Figure(figsize=(8.0, 3.0), layout="constrained")
    axes = figure.subplots()
    for offset, kind, color in ((-0.2, "conservative", _COLORS[0]), (0.2, "direct", _COLORS[1])):
        found = [each[f"{kind}_forces"] for each in loops]
        places = np.arange(len(found)) + 1 + offset
        work = [abs(each["work"]) * per_atom for each in found]
        axes.bar(places, work, 0.38, color=color, label=f"{kind} forces")
        errors = [max(each["quadrature_error"] * per_atom, 1e-12) for each in found]
        axes.plot(places, errors, "_", color=_GRAY, markersize=9)
    axes.plot([], [], "_", color=_GRAY, label="error of the sum")
    axes.set(xlabel="closed path", ylabel="|work| (meV/atom)", yscale="log")
    _legend(axes)
    return figure


def draw_resonance(report: Report) -> Figure | None:
    """Draw what is absorbed at each frequency, and the drift predicted for each M."""
    unit = report["pieces"].get("resonance", {}).get("resonance", {})
    if not unit.get("drifts"):
        return None
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    step_fs = report["conditions"]["time_step_fs"]
    left.semilogy(unit["wave_numbers"], unit["heating"], color=_COLORS[0], linewidth=1.0)
    for inner_steps in (4, 6, 8, 12):
        shaken = wave_number(inner_steps * step_fs)
        left.axvline(shaken, color=_GRAY, linewidth=0.7)
        left.annotate(
            f"M = {inner_steps}",
            (shaken, 1.0),
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            ha="right",
            fontsize=7,
        )
    left.set(xlabel="shaken at (1/cm)", ylabel="absorbed (meV/atom/ps)")
    left.set_xlim(0.0, wave_number(3.5 * step_fs))
    places = [int(inner_steps) * step_fs for inner_steps in unit["drifts"]]
    values = [each["value"] for each in unit["drifts"].values()]
    errors = [2 * (each["error"] or 0.0) for each in unit["drifts"].values()]
    right.errorbar(
        places, values, errors, fmt="o-", color=_COLORS[0], markersize=4, label="predicted"
    )
    measured = {
        int(inner_steps) * step_fs: found["drift"]
        for inner_steps in unit["drifts"]
        if (found := report["pieces"].get("nve", {}).get(f"nve:hybrid-{inner_steps}", {}))
        and found.get("drift")
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
    right.set(xlabel="outer step (fs)", ylabel="drift ± 2 errors (meV/atom/ps)", yscale="log")
    _legend(right)
    return figure


def draw_nve(report: Report) -> Figure | None:
    """Draw the total energy against time, and the drifts."""
    units = units_of(report, "nve", "time_ps")
    if not units:
        return None
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    limit = report["thresholds"]["max_drift"]
    for (key, unit), color in zip(units.items(), itertools.cycle(_COLORS), strict=False):
        left.plot(unit["time_ps"], unit["change_mev_per_atom"], color=color, label=title_of(key))
    if max(np.abs(unit["change_mev_per_atom"]).max() for unit in units.values()) > 5.0:
        left.set_yscale("symlog", linthresh=1.0)
    left.set(xlabel="time (ps)", ylabel="change of total energy (meV/atom)")
    _legend(left)
    drifting = {key: unit["drift"] for key, unit in units.items() if unit["drift"]}
    places = np.arange(len(drifting))
    for place, (key, drift) in zip(places, drifting.items(), strict=True):
        color = _COLORS[list(units).index(key) % len(_COLORS)]
        right.errorbar(drift["rate"], place, xerr=2 * drift["error"], fmt="o", color=color)
    right.axvspan(-limit, limit, color=_GRAY, alpha=0.25, linewidth=0)
    right.set_xscale("symlog", linthresh=limit)
    right.set_yticks(places, [title_of(key) for key in drifting])
    right.invert_yaxis()
    right.set_xlabel("drift ± 2 errors (meV/atom/ps)")
    return figure


def draw_temperatures(report: Report) -> Figure | None:
    """Draw how far each species is from the temperature that it should have."""
    units = units_of(report, "nvt", "species_temperatures")
    target = report["conditions"]["temperature_k"]
    found = {key: deviations_of(unit, target) for key, unit in units.items()}
    found = {key: each for key, each in found.items() if each}
    if not found:
        return None
    symbols = sorted({symbol for each in found.values() for symbol in each})
    figure = Figure(figsize=(8.0, 1.4 + 0.42 * len(found)), layout="constrained")
    axes = figure.subplots()
    limit = report["thresholds"]["max_temperature_error"]
    axes.axvspan(-limit, limit, color=_GRAY, alpha=0.25, linewidth=0)
    for index, symbol in enumerate(symbols):
        rows = [(row, each[symbol]) for row, each in enumerate(found.values()) if symbol in each]
        shift = 0.24 * (index - (len(symbols) - 1) / 2)
        axes.errorbar(
            [value for _, (value, _, _) in rows],
            [row + shift for row, _ in rows],
            xerr=[2 * error for _, (_, error, _) in rows],
            fmt="o",
            color=_COLORS[index % len(_COLORS)],
            label=symbol,
        )
    axes.set_yticks(range(len(found)), [title_of(key) for key in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel("temperature - where it should be, ± 2 errors (K)")
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
        places = np.arange(len(found)) + (index - (len(symbols) - 1) / 2) * width
        color = _COLORS[index % len(_COLORS)]
        axes.barh(places, values, width, xerr=errors, ecolor=_GRAY, label=symbol, color=color)
    axes.set_yticks(range(len(known)), [title_of(key) for key in known])
    axes.invert_yaxis()
    axes.set_xlabel("diffusion (Å²/ps)")
    _legend(axes)
    return figure


def draw_spectra(report: Report) -> Figure | None:
    """Draw the spectra of velocities of the species that vibrates fastest."""
    units = units_of(report, "nvt", "largest_wave_number")
    symbol = min(report["atoms"]["counts"], key=lambda each: _slowness(report, each))
    spectra = {key: unit["spectra"].get(symbol) for key, unit in units.items()}
    spectra = {key: spectrum for key, spectrum in spectra.items() if spectrum}
    if not spectra:
        return None
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    axes = figure.subplots()
    for (key, spectrum), color in zip(spectra.items(), itertools.cycle(_COLORS), strict=False):
        label = title_of(key)
        axes.plot(spectrum["wave_numbers"], spectrum["density"], color=color, lw=1, label=label)
    largest = max(spectrum["highest"] for spectrum in spectra.values())
    axes.set(
        xlabel="wave number (1/cm)", ylabel=f"spectrum of {symbol}", xlim=(0, 1.3 * largest + 1)
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
        axes.set(xlabel="distance (Å)", ylabel=f"g of {name}")
        if "H" in name.split("-"):
            axes.set_ylim(0, 4)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False, fontsize=7)
    return figure


def draw_optimise(report: Report) -> Figure | None:
    """Draw how many optimisations ended well, and what they took."""
    units = units_of(report, "optimise", "success_rate")
    if not units:
        return None
    figure = Figure(figsize=(8.0, 2.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    names = [title_of(key) for key in units]
    rates = [unit["success_rate"] for unit in units.values()]
    errors = [unit["success_error"] for unit in units.values()]
    left.bar(names, rates, yerr=errors, ecolor=_GRAY, color=_COLORS[0])
    left.set(ylim=(0, 1.05), ylabel="ended at a minimum")
    direct = np.array([unit["n_direct"] for unit in units.values()])
    conservative = np.array([unit["n_conservative"] for unit in units.values()])
    middle.bar(names, direct, color=_COLORS[1], label="direct")
    middle.bar(names, conservative, bottom=direct, color=_COLORS[0], label="conservative")
    middle.set_ylabel("evaluations")
    _legend(middle)
    for place, unit in enumerate(units.values()):
        largest = [each["largest_force"] for each in unit["starts"].values()]
        right.semilogy([place] * len(largest), largest, "o", color=_COLORS[2], markersize=4)
    right.axhline(next(iter(units.values()))["fmax"], color=_GRAY, linestyle="--")
    right.set_xticks(range(len(names)), names)
    right.set_ylabel("largest force at the end (eV/Å)")
    for axes in (left, middle, right):
        axes.tick_params(axis="x", labelsize=7)
    return figure


def draw_cost(report: Report) -> Figure | None:
    """Draw what an inner step costs against what it was expected to."""
    found = report["pieces"].get("cost", {}).get("cost", {})
    if not found.get("ways"):
        return None
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    axes = figure.subplots()
    ways = found["ways"]
    places = np.arange(len(ways))
    values = [each["over_direct"]["value"] for each in ways.values()]
    errors = [each["over_direct"]["error"] or 0.0 for each in ways.values()]
    axes.bar(places, values, 0.6, yerr=errors, ecolor=_GRAY, color=_COLORS[0], label="measured")
    expected = [each["expected_over_direct"] for each in ways.values()]
    axes.plot(places, expected, "_", color=_COLORS[1], markersize=34, markeredgewidth=2)
    axes.plot([], [], "_", color=_COLORS[1], markersize=12, label="1 + (F - 1)/M")
    axes.set_xticks(places, [parse_way(key).title for key in ways])
    axes.set_ylabel("time of an inner step / direct")
    _legend(axes)
    return figure


FIGURES: Mapping[str, tuple[Callable[[Report], Figure | None], ...]] = {
    "lambda": (draw_lambda,),
    "loops": (draw_loops,),
    "cost": (draw_cost,),
    "optimise": (draw_optimise,),
    "resonance": (draw_resonance,),
    "nve": (draw_nve,),
    "nvt": (draw_temperatures, draw_motion, draw_spectra, draw_radial),
}


def _legend(axes: Any) -> None:
    """Put a legend above the axes, where it hides nothing."""
    n_columns = 2 if axes.get_subplotspec().get_gridspec().ncols > 1 else 4
    place = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "ncols": n_columns}
    axes.legend(frameon=False, fontsize=7, borderaxespad=0.2, columnspacing=1.2, **place)


def _slowness(report: Report, symbol: str) -> float:
    """Return less for species that vibrate faster."""
    frequencies = report["pieces"].get("start", {}).get("start", {}).get("square_frequencies", {})
    return -float(frequencies.get(symbol, 0.0))
