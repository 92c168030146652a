"""Runs as images."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from twinforce.md.instants import Instant


def plot_runs(runs: Mapping[str, Iterable[Instant]], n_atoms: int, path: Path) -> None:
    """Plot the total energy and the temperature of runs against time, as an image.

    Args:
        runs: By their names in the legend.
        n_atoms: Of each.
        path: Of the image; the suffix says which kind.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for name, run in runs.items():
        instants = list(run)
        times = [each.time_fs * 1e-3 for each in instants]
        start = instants[0].total_energy
        change = [(each.total_energy - start) * 1e3 / n_atoms for each in instants]
        upper.plot(times, change, label=name, linewidth=1.2)
        lower.plot(times, [each.temperature_k for each in instants], label=name, linewidth=1.0)
    upper.set_ylabel("change of total energy (meV/atom)")
    lower.set_ylabel("temperature (K)")
    lower.set_xlabel("time (ps)")
    upper.legend(frameon=False)
    figure.savefig(path, dpi=150)
