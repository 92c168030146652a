"""Plots of a training run: errors against time, and predictions against labels."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

Rows = Sequence[Mapping[str, str]]
KINDS = {
    "conservative": "conservative forces, meV/Å",
    "direct": "direct forces, meV/Å",
    "energy": "energy, meV/atom",
}


def read_log(path: Path) -> list[dict[str, str]]:
    """Return the rows of a log.csv."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def plot_learning(logs: Mapping[str, Rows], path: Path) -> None:
    """Plot errors on test systems against CPU time.

    Args:
        logs: Label -> rows of a log.csv.
        path: File to write.
    """
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, (kind, title) in zip(axes, KINDS.items(), strict=True):
        for label, rows in logs.items():
            points = [
                (float(row["cpu_s"]) / 60, float(row[f"test_{kind}_mae"]))
                for row in rows
                if row[f"test_{kind}_mae"]
            ]
            if points:
                axis.plot(*zip(*points, strict=True), ".-", label=label)
        axis.set(xlabel="CPU time, minutes", title=title, yscale="log")
    axes[0].set_ylabel("mean absolute error on test systems")
    axes[0].legend()
    figure.savefig(path, dpi=110)


def plot_parity(pairs: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], path: Path) -> None:
    """Plot predictions against labels.

    Args:
        pairs: Title with unit -> labels and predictions of the same shape.
        path: File to write.
    """
    figure = Figure(figsize=(4 * len(pairs), 3.8), layout="constrained")
    axes = figure.subplots(1, len(pairs))
    for axis, (title, (labels, predictions)) in zip(axes, pairs.items(), strict=True):
        error = np.abs(predictions - labels).mean()
        ends = [labels.min(), labels.max()]
        axis.plot(ends, ends, "k-", linewidth=0.5)
        size = 6 if labels.size < 1000 else 1.5
        axis.plot(labels.ravel(), predictions.ravel(), ".", markersize=size, rasterized=True)
        axis.locator_params(nbins=5)
        axis.ticklabel_format(useOffset=False)
        axis.set(title=f"{title}\nMAE {error:.4g}", xlabel="label", ylabel="prediction")
    figure.savefig(path, dpi=110)
