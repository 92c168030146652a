"""The study of the paper for the bundled model: `make paper`.

    python -m bench.paper --minutes 60

Serves the model itself, runs `twinforce assess` on it for so long, from where it was left, and
writes docs/paper.md with its pictures. What a run of some hours leaves is in runs/paper.

    python -m bench.paper --hydrogen-mass 3 --pieces resonance,nve,nvt:hybrid-8:svr:10

does the same with heavier hydrogens, in a folder of its own; the page shows it beside the rest.
"""

import argparse
import json
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
from demo.serving import running_service

from bench.machine import ROOT
from bench.paper_text import document, paths_of_logs
from twinforce import Client
from twinforce.ase import repartition_hydrogen_mass
from twinforce.assess import Conditions, Progress, assess
from twinforce.assess.report.figures import FIGURES
from twinforce_models.training.plots import read_log


def main(arguments: Sequence[str] | None = None) -> int:
    """Run for a while, then write; return the exit status."""
    given = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if given.url:
            report, errors = study(given.url, given)
        else:
            served = ["--compile=on"]  # once, in minutes: what is timed must not change meanwhile
            if given.threads:
                served.append(f"--n-threads={given.threads}")
            with running_service(*served) as (_, url):
                report, errors = study(url, given)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from here\n")
        return 130
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    write(report, errors, given.docs, is_heavy=bool(given.hydrogen_mass))
    print(*report["verdict"]["advice"], sep="\n")
    print(f"{given.docs / 'paper.md'}")
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.paper", description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="0: write what is there")
    parser.add_argument("--url", help="of a service that runs already")
    parser.add_argument("--model", default="water")
    parser.add_argument("--start", type=Path, default=ROOT / "demo" / "water64.xyz")
    parser.add_argument("--pieces", default="", help="as of `twinforce assess`")
    parser.add_argument("--preset", default="paper", help="as of `twinforce assess`")
    usual = Conditions()
    parser.add_argument("--equilibration", type=float, default=usual.equilibration_ps, help="ps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hydrogen-mass", type=float, help="in amu, taken from bonded atoms")
    parser.add_argument("--threads", type=int, default=0, help="of an evaluation; 0: as usual")
    parser.add_argument("--out", type=Path, help="default: runs/paper, of heavy ones runs/heavy")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where paper.md goes")
    parser.add_argument("--anew", action="store_true", help="delete a study of other weights")
    given = parser.parse_args(arguments)
    given.out = given.out or ROOT / "runs" / ("heavy" if given.hydrogen_mass else "paper")
    return given


def study(url: str, given: argparse.Namespace) -> tuple[dict[str, Any], dict[str, float]]:
    """Assess the model; return the report and its errors on test systems."""
    atoms = ase.io.read(given.start)
    if given.hydrogen_mass:
        repartition_hydrogen_mass(atoms, given.hydrogen_mass)
    conditions = Conditions(equilibration_ps=given.equilibration, seed=given.seed)
    with Client(url, timeout=600.0) as client:
        report = assess(
            client,
            atoms,
            given.out,
            model=given.model,
            preset=given.preset,
            pieces=[each for each in given.pieces.split(",") if each],
            conditions=conditions,
            budget_minutes=given.minutes,
            anew=given.anew,
            progress=Progress(),
        )
        metadata = client.model(given.model).metadata
    return report, dict(metadata.get("errors", {}))


def write(
    report: dict[str, Any], errors: dict[str, float], docs: Path, *, is_heavy: bool = False
) -> None:
    """Write paper.md, and paper/ with its pictures and the report.

    The page is about the report of usual masses, and shows that of heavy hydrogens if there is one.
    """
    folder = docs / "paper"
    folder.mkdir(parents=True, exist_ok=True)
    name = "heavy" if is_heavy else "report"
    (folder / f"{name}.json").write_text(json.dumps(rounded(report), separators=(",", ":")) + "\n")
    if not (folder / "report.json").exists():
        return
    report = json.loads((folder / "report.json").read_text())
    path = folder / "heavy.json"
    heavy = json.loads(path.read_text()) if path.exists() else None
    figures = []
    for name, draw in [pair for piece in FIGURES.values() for pair in piece.items()]:
        if figure := draw(report):
            figure.savefig(folder / f"{name}.png", dpi=110)
            figures.append(name)
    logs = {path.stem: read_log(path) for path in paths_of_logs(ROOT / "docs" / "training")}
    (docs / "paper.md").write_text(document(report, errors, logs, figures, heavy), encoding="utf-8")


def rounded(value: Any) -> Any:
    """Return a document with six significant digits, which keeps its file small."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    return value


if __name__ == "__main__":
    sys.exit(main())
