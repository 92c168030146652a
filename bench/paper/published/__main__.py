"""Repeat the experiments of the paper with published models: `make paper PAGE=published`.

    python -m bench.paper.published --minutes 60

The command serves one model after another, continues the assessment of each in runs/published for
its share of the given time, and writes docs/published.md with its plots. The weights come from
packages on PyPI, by their hash.

    python -m bench.paper.published --only orb --pieces nve:direct

does one model, and some of its experiments, only.

    python -m bench.paper.published --page-only

writes the page again from docs/published/*.json, without a service.

Experiments in those files that are not in runs/published stay as they are, so that a new checkout
adds to the page.
"""

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.paper.__main__ import rounded
from bench.paper.published.entries import ENTRIES, PublishedEntry
from bench.paper.published.page import write_page
from bench.runner.command_line import parser_of
from bench.runner.machine import ROOT
from bench.runner.processes import running_service
from bench.runner.weights import WeightsUnavailableError
from twinforce import Client
from twinforce.assess import Conditions, Progress, assess
from twinforce.assess.folder import as_json
from twinforce.assess.plan import PRESETS
from twinforce.assess.report.content import Report
from twinforce.assess.report.verdict import Thresholds, judge


def main(arguments: Sequence[str] | None = None) -> int:
    """Continue the assessments, then write the page; return the exit status."""
    given = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if not given.page_only:
            study([ENTRIES[name] for name in given.only], given)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to continue\n")
        return 130
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    write_page(given.docs)
    print(f"{given.docs / 'published.md'}")
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of("bench.paper.published", __doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=60.0, help="wall time of all models together")
    add("--only", nargs="+", choices=ENTRIES, default=list(ENTRIES), help="models")
    add("--pieces", default="", help="experiments, as for `twinforce assess`")
    add("--preset", default="quick", choices=PRESETS, help="preset, as for `twinforce assess`")
    add("--threads", type=int, default=0,
        help="CPU threads of an evaluation, or 0 for the default of the service")  # fmt: skip
    add("--environment-folder", type=Path, help="folder of environments named after families, for "
        "those that cannot be imported here")  # fmt: skip
    add("--url", help="address of a service that serves the models by these names, instead of "
        "starting one")  # fmt: skip
    add("--seed", type=int, default=0, help="seed of all random numbers")
    add("--out", type=Path, default=ROOT / "runs" / "published", help="folder of the assessments")
    add("--docs", type=Path, default=ROOT / "docs", help="folder of published.md")
    add("--anew", action="store_true", help="delete assessments of other weights or systems")
    add("--page-only", action="store_true", help="write the page from published/*.json")
    return parser.parse_args(arguments)


def study(entries: Sequence[PublishedEntry], given: argparse.Namespace) -> None:
    """Continue the assessment of each model for its share of the time, and save its report."""
    total = sum(each.share for each in entries)
    for entry in entries:
        try:
            with service_of(entry, given) as url:
                assess_one(entry, url, given.minutes * entry.share / total, given)
        except (WeightsUnavailableError, RuntimeError) as error:  # or the service did not start
            sys.stderr.write(f"{entry.name}: not run: {error}\n")


@contextmanager
def service_of(entry: PublishedEntry, given: argparse.Namespace) -> Iterator[str]:
    """Yield the gRPC address of a service of this model."""
    if given.url:
        yield given.url
        return
    folder = given.environment_folder
    flags = ["--no-water", "--dtype=float32", f"--model={entry.name}={entry.spec(folder)}"]
    if folder is not None:
        flags.append(f"--environment-folder={folder.absolute()}")
    if given.threads:
        flags.append(f"--n-threads={given.threads}")
    with running_service(*flags) as (_, url):
        yield url


def assess_one(entry: PublishedEntry, url: str, minutes: float, given: argparse.Namespace) -> None:
    """Continue the assessment of a model, and save its report beside the page.

    All models of a system start from the same state, without further equilibration.
    """
    conditions = Conditions(equilibration_ps=0.0, seed=given.seed)
    with Client(url, timeout=600.0) as client:
        report = assess(
            client,
            entry.start(),
            given.out / entry.name,
            model=entry.name,
            preset=given.preset,
            pieces=[each for each in given.pieces.split(",") if each] or entry.pieces,
            conditions=conditions,
            budget_minutes=minutes,
            anew=given.anew,
            progress=Progress(),
        )
    folder = given.docs / "published"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{entry.name}.json"
    found = dated(rounded(report))
    if path.exists():
        found = merged(json.loads(path.read_text()), found)
    text = json.dumps(rounded(found), separators=(",", ":"))
    path.write_text(f"{text}\n")


def dated(report: Report) -> dict[str, Any]:
    """Return a report whose experiments have the versions and the date of the run, `measured`."""
    names = ("service_version", "client_version", "written")
    measured = {name: report["provenance"][name] for name in names}
    pieces = {
        piece: {key: {**unit, "measured": measured} for key, unit in units.items()}
        for piece, units in report["pieces"].items()
    }
    return {**report, "pieces": pieces}


def merged(earlier: Report, report: dict[str, Any]) -> dict[str, Any]:
    """Return the report with those experiments of an earlier one that went further.

    An earlier report of other weights, atoms or conditions is ignored.
    """
    if subject_of(earlier) != subject_of(report):
        return report
    pieces = {
        piece: furthest(earlier["pieces"].get(piece, {}), report["pieces"].get(piece, {}))
        for piece in report["pieces"] | earlier["pieces"]
    }
    seconds = sum(_seconds(unit) for units in pieces.values() for unit in units.values())
    found = report | {"pieces": pieces, "wall_s": seconds}
    return found | {"verdict": as_json(asdict(judge(found, Thresholds(**report["thresholds"]))))}


def furthest(earlier: Report, units: Report) -> dict[str, Any]:
    """Return experiments by key, each the later one unless the earlier went further.

    An experiment that this run did not continue keeps the date of the earlier report.
    """
    found = dict(earlier)
    for key, unit in units.items():
        before = earlier.get(key, {})
        date = "measured" if _seconds(unit) == _seconds(before) else ""
        if progress_of(unit) >= progress_of(before):
            found[key] = {**unit, **{name: before[name] for name in before if name == date}}
    return found


def progress_of(unit: Report) -> tuple[bool, float, bool]:
    """Return how far an experiment went, in an order that does not depend on the machine.

    The values are whether it has results; its length in ps, or the number of its optimizations,
    closed paths or rounds of timing; and whether it is done.
    """
    status = unit.get("status", "not run")
    counted = unit.get("loops", unit.get("rounds", ()))
    amount = unit.get("picoseconds", unit.get("n_done", len(counted)))
    return _seconds(unit) > 0.0, float(amount), status == "done"


def subject_of(report: Report) -> dict[str, Any]:
    """Return what all experiments of a report have in common."""
    return {
        "weights": report["provenance"]["sha256"],
        "dtype": report["provenance"]["dtype"],
        "atoms": report["atoms"]["sha256"],
        "conditions": report["conditions"],
    }


def _seconds(unit: Report) -> float:
    """Return the wall time of an experiment."""
    return float(unit.get("wall_s", 0.0))


if __name__ == "__main__":
    sys.exit(main())
