"""The plots of docs/performance.md, drawn from the results."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

Content = Mapping[str, Any]


def sizes(axes: Axes, content: Content) -> None:
    """Draw the time of a step against the number of atoms, with the fitted line."""
    for kind, line in content["lines"].items():
        found = {
            int(name.split()[-1]): row["median"]
            for name, row in content["milliseconds"].items()
            if name.startswith(f"{kind} ")
        }
        n = np.array(sorted(found))
        (drawn,) = axes.loglog(n, [found[each] for each in n], "o", label=kind)
        fit = line["fixed_ms"] + 1e-3 * line["us_per_atom"] * n
        axes.loglog(n, fit, "-", color=drawn.get_color(), linewidth=1)
    axes.set(xlabel="atoms", ylabel="ms per step", title="Step against size, with straight lines")
    axes.legend()


def crowd(axes: Axes, content: Content) -> None:
    """Draw the evaluations per second against the number of walkers."""
    rows = content["by_walkers"]
    n = np.array([int(each) for each in rows])
    values = np.array([[row["median"], row["low"], row["high"]] for row in rows.values()]).T
    spread = np.abs(values[1:] - values[0])
    axes.errorbar(n, values[0], spread, fmt="o-", capsize=3, label="TwinForce")
    for name, row in content["evaluations_per_s"].items():
        if name != "TwinForce":
            axes.plot(content["n_walkers"], row["median"], "s", label=name)
    axes.set_xscale("log", base=2)
    title = f"Walkers of {content['n_atoms']} atoms, toy"
    axes.set(xlabel="walkers", ylabel="evaluations per second", title=title, ylim=(0, None))
    axes.legend()


def step(axes: Axes, content: Content) -> None:
    """Draw the CPU time of a step of the toy, by process."""
    rows = {name: row["cpu"] for name, row in content["milliseconds"].items()}
    roles = sorted({role for row in rows.values() for role in row})
    left = np.zeros(len(rows))
    for role in roles:
        values = np.array([row.get(role, 0.0) for row in rows.values()])
        axes.barh(list(rows), values, left=left, label=role)
        left += values
    axes.invert_yaxis()
    axes.set(xlabel="ms of CPU per step", title=f"One walker, {content['n_atoms']} atoms, toy")
    axes.legend()


PLOTS: dict[str, Callable[[Axes, Content], None]] = {"sizes": sizes, "crowd": crowd, "step": step}


def draw(results: Mapping[str, Content], folder: Path) -> list[str]:
    """Write a plot for each result that exists; return the names of the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, plot in PLOTS.items():
        if not results.get(name, {}).get("figures"):
            continue
        figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
        plot(axes, results[name])
        figure.savefig(folder / f"{name}.png", dpi=100)
        plt.close(figure)
        drawn.append(name)
    return drawn
