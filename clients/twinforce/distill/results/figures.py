"""The figures of the report of a distillation, drawn from its numbers alone."""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure

_COLORS = ("#0072b2", "#d55e00", "#009e73")
_GRAY = "#888888"
_KINDS = {"direct_forces": "direct", "conservative_forces": "conservative"}


def draw_learning(report: Mapping[str, Any]) -> Figure | None:
    """Draw the errors of the student of each round."""
    rounds = sorted(report["errors"], key=int)
    if not rounds:
        return None
    figure = Figure(figsize=(8.0, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    n_labels = [sum(each["n_train"] for each in report["rounds"][: int(r) + 1]) for r in rounds]
    for (kind, title), color in zip(_KINDS.items(), _COLORS, strict=False):
        errors = [report["errors"][r].get(kind, {}).get("rmse") for r in rounds]
        if None not in errors:
            values = [1e3 * each for each in errors]
            left.plot(n_labels, values, "o-", color=color, label=f"{title} forces", markersize=4)
    left.set(xlabel="labeled systems", ylabel="force error on unseen systems (rms, meV/Å)")
    left.set_ylim(bottom=0.0)
    left.legend(frameon=False, fontsize=7)
    last = report["errors"][rounds[-1]].get("direct_forces", {}).get("species", {})
    size = report["errors"][rounds[-1]]["size"]["species"]
    relative = [last[each]["rmse"] / (size[each]["rmse"] or 1.0) for each in last]
    right.bar(list(last), [100 * each for each in relative], color=_COLORS[0])
    right.set_ylabel("direct forces: error / force (%)")
    return figure


def draw_speed(report: Mapping[str, Any]) -> Figure | None:
    """Draw the speed of each M, with the candidates marked."""
    table = {int(m): each for m, each in report["inner_steps"].items()}
    known = {m: each for m, each in table.items() if each["speed_up"] is not None}
    if not known:
        return None
    figure = Figure(figsize=(8.0, 3.0), layout="constrained")
    axes = figure.subplots()
    chosen = report["recommendation"]["inner_steps"]
    for m, each in known.items():
        color = _COLORS[2] if m == chosen else _COLORS[0] if each["is_candidate"] else _GRAY
        axes.bar(m, each["speed_up"], 0.7, color=color, alpha=1.0 if each["is_timed"] else 0.6)
    for color, label in (
        (_COLORS[2], "recommended"),
        (_COLORS[0], "candidate"),
        (_GRAY, "no candidate"),
    ):
        axes.bar([0], [0], color=color, label=label)
    axes.set(xlabel="inner steps M", ylabel="speed over the teacher alone", xlim=(1, 17))
    axes.legend(frameon=False, fontsize=7, loc="upper left", ncols=3)
    return figure


FIGURES: Mapping[str, Callable[[Mapping[str, Any]], Figure | None]] = {
    "learning": draw_learning,
    "speed": draw_speed,
}
