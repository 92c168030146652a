"""Repeat the experiments of the paper with the bundled model: `make paper`.

    python -m bench.paper --minutes 60

The command starts a service, continues the assessment of the model in runs/paper for the given
time, and writes docs/paper.md with its plots.

    python -m bench.paper --hydrogen-mass 3 --pieces resonance,nve,nvt:hybrid-8:svr:10

does the same with heavier hydrogens in runs/heavy; the page shows both.

    python -m bench.paper --page-only

writes the page again from docs/paper/report.json, without a service.
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

from bench.paper.document import document, paths_of_logs
from bench.runner.command_line import parser_of
from bench.runner.machine import ROOT
from bench.runner.processes import running_service
from bench.runner.systems import WATER
from twinforce import Client
from twinforce.ase import repartition_hydrogen_mass
from twinforce.assess import Conditions, Progress, assess
from twinforce.assess.report.figures import FIGURES
from twinforce_models import registry
from twinforce_models.training.plots import read_log


def main(arguments: Sequence[str] | None = None) -> int:
    """Continue the assessment, then write the page; return the exit status."""
    given = parse_arguments(arguments)
    if given.page_only:
        metadata = registry.load(given.model).info.metadata
        write_page(metadata.get("errors", {}), given.docs)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if given.url:
            report, errors = study(given.url, given)
        else:
            # The service compiles before it is ready: timings must not change during the study.
            flags = ["--compile=on"]
            if given.threads:
                flags.append(f"--n-threads={given.threads}")
            with running_service(*flags) as (_, url):
                report, errors = study(url, given)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to continue\n")
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
    parser = parser_of("bench.paper", __doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=60.0, help="wall time; 0 only writes the page")
    add("--url", help="address of a service to use, instead of starting one")
    add("--model", default="water", help="name of the model")
    add("--start", type=Path, default=WATER, help="file with the atoms")
    add("--pieces", default="", help="experiments, as for `twinforce assess`")
    add("--preset", default="paper", help="preset, as for `twinforce assess`")
    add("--equilibration", type=float, default=Conditions().equilibration_ps,
        help="equilibration before each run, in ps")  # fmt: skip
    add("--seed", type=int, default=0, help="seed of all random numbers")
    add("--hydrogen-mass", type=float, help="mass in amu, taken from the atoms bonded to hydrogens")
    add("--threads", type=int, default=0,
        help="CPU threads of an evaluation, or 0 for the default of the service")  # fmt: skip
    add("--out", type=Path, help="folder of the assessment (default: runs/paper, or runs/heavy "
        "with --hydrogen-mass)")  # fmt: skip
    add("--docs", type=Path, default=ROOT / "docs", help="folder of paper.md")
    add("--anew", action="store_true", help="delete a study of other weights")
    add("--page-only", action="store_true", help="write the page from paper/report.json")
    given = parser.parse_args(arguments)
    given.out = given.out or ROOT / "runs" / ("heavy" if given.hydrogen_mass else "paper")
    return given


def study(url: str, given: argparse.Namespace) -> tuple[dict[str, Any], dict[str, float]]:
    """Assess the model; return the report and the errors of the model on test systems."""
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
    """Write the report to the folder paper, then the page if there is a report of usual masses."""
    folder = docs / "paper"
    folder.mkdir(parents=True, exist_ok=True)
    name = "heavy" if is_heavy else "report"
    (folder / f"{name}.json").write_text(json.dumps(rounded(report), separators=(",", ":")) + "\n")
    if (folder / "report.json").exists():
        write_page(errors, docs)


def write_page(errors: dict[str, float], docs: Path) -> None:
    """Write paper.md and its plots from paper/report.json and, if it exists, paper/heavy.json."""
    folder = docs / "paper"
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
    """Return a document with numbers of six significant digits, so that its file is small."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    return value


if __name__ == "__main__":
    sys.exit(main())
