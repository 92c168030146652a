"""The errors of the bundled models during training, from the logs of their training runs.

    python -m bench.studies.learning

`twinforce-train` wrote the logs in docs/training with the recipes in `twinforce_models.training`.
"""

from pathlib import Path

from bench.runner.machine import ROOT
from twinforce_models.training.plots import KINDS, Rows, plot_learning, read_log

FOLDER = ROOT / "docs" / "training"


def last_errors(rows: Rows) -> dict[str, float]:
    """Return the last errors on test systems, and the CPU time until then, in minutes."""
    final = [row for row in rows if row["test_energy_mae"]][-1]
    errors = {kind: float(final[f"test_{kind}_mae"]) for kind in KINDS if final[f"test_{kind}_mae"]}
    return {"minutes": float(final["cpu_s"]) / 60} | errors


def print_table(logs: dict[str, Rows]) -> None:
    """Print the last errors of each run."""
    columns = ("minutes", *KINDS)
    print(f"{'run':24}" + "".join(f"{column:>14}" for column in columns))
    for name, rows in logs.items():
        errors = last_errors(rows)
        print(
            f"{name:24}"
            + "".join(f"{errors.get(column, float('nan')):14.2f}" for column in columns)
        )


def main(folder: Path = FOLDER) -> None:
    """Draw docs/training/learning.png and print the last errors of each run."""
    logs = {path.stem: read_log(path) for path in sorted(folder.glob("*.csv"))}
    plot_learning(logs, folder / "learning.png")
    print_table(logs)


if __name__ == "__main__":
    main()
