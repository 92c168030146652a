"""Plots of runs."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from twinforce._files import replace_file
from twinforce.md.instants import Instant


def plot_runs(runs: Mapping[str, Iterable[Instant]], n_atoms: int, path: Path) -> None:
    """Plot the total energy and the temperature of runs against time.

    Args:
        runs: Runs by their names in the legend.
        n_atoms: Number of atoms in each system.
        path: Path of the image; the suffix determines its format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for name, run in runs.items():
        states = list(run)
        times = [state.time_fs * 1e-3 for state in states]
        start = states[0].total_energy
        change = [(state.total_energy - start) * 1e3 / n_atoms for state in states]
        upper.plot(times, change, label=name, linewidth=1.2)
        lower.plot(times, [state.temperature_k for state in states], label=name, linewidth=1.0)
    upper.set_ylabel("change of total energy (meV/atom)")
    lower.set_ylabel("temperature (K)")
    lower.set_xlabel("time (ps)")
    upper.legend(frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format=path.suffix.lower().removeprefix(".") or None, dpi=150)
    replace_file(path, image.getvalue())
