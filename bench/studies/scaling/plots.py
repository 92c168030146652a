"""The plots of docs/scaling.md, drawn from its data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

Data = Mapping[str, Any]


def draw(data: Data, folder: Path) -> None:
    """Write all plots."""
    for plot in (_metrics, _autoscaling, _zone_loss, _sticking):
        figure = plot(data)
        figure.savefig(folder / f"{plot.__name__.removeprefix('_')}.png", dpi=80)
        plt.close(figure)


def _metrics(data: Data) -> Any:
    figure, rows = plt.subplots(1, 3, figsize=(9.6, 3.2), layout="constrained")
    quantities = (("utilization", "utilization"), ("queue_atoms", "atoms in the queue"))
    for axes, (name, label) in zip(rows, (*quantities, ("step_s", "step / s")), strict=True):
        for model, readings in data["replica"].items():
            n = [each["n_walkers"] for each in readings]
            values = [max(each[name], 1.0 if name == "queue_atoms" else 0.0) for each in readings]
            axes.plot(n, values, "o-", label=model)
        axes.set_xscale("log", base=2)
        if name != "utilization":
            axes.set_yscale("log")
        axes.set(xlabel="walkers of one replica", ylabel=label)
    rows[0].legend()
    return figure


def _autoscaling(data: Data) -> Any:
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(7.2, 5.6), sharex=True, layout="constrained"
    )
    for name, row in data["autoscaling"].items():
        above.plot(row["minutes"], row["replicas"], label=name)
        below.plot(row["minutes"], row["step_s"])
    above.set(ylabel="replicas", yscale="log")
    above.legend(fontsize="small")
    below.set(xlabel="minutes", ylabel="mean step / s", ylim=(0.0, 1.0))
    return figure


def _zone_loss(data: Data) -> Any:
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for name, row in data["zone_loss"].items():
        axes.plot(row["pauses_s"], np.arange(101), label=name)
    axes.set(xlabel="pause / s", ylabel="walkers of the lost zone that step again, %")
    axes.legend(fontsize="small")
    return figure


def _sticking(data: Data) -> Any:
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for name, row in data["sticking"].items():
        (drawn,) = axes.plot(row["minutes"], row["p99_s"], label=name)
        axes.plot(row["minutes"], row["median_s"], ":", color=drawn.get_color())
    axes.set(
        xlabel="minutes since a third of the replicas came back",
        ylabel="step / s: 99% (solid), median (dotted)",
        ylim=(0.0, None),
    )
    axes.legend(fontsize="small")
    return figure
