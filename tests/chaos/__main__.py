"""Try all faults, print a table, and write the page: `python -m tests.chaos --minutes 15`."""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

from tests.chaos.clients import Load
from tests.chaos.faults import FAULTS
from tests.chaos.page import page, table
from tests.chaos.service import WATCHDOG
from tests.chaos.trials import Result, Trials

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_LONG, _SHORT = Load(n_walkers=32, n_runs=8, n_steps=100), Load(n_walkers=8, n_runs=2, n_steps=60)
# Minutes that no trial begins in the end, as it would take longer than there is time.
_LAST = 1.5


def main() -> int:
    """Run the trials; return 1 if a client hung, was lost or went astray."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="end after so many minutes")
    parser.add_argument("--short", action="store_true", help="try few faults, and write nothing")
    parser.add_argument(
        "--only", default="", help="try the faults whose name contains this; replace their rows"
    )
    options = parser.parse_args()
    load = _SHORT if options.short else _LONG
    until = time.monotonic() + 60.0 * options.minutes
    trials = Trials(load)
    try:
        results = [_show(trials.undisturbed())]
        for fault in FAULTS:
            if (options.short and not fault.is_short) or options.only not in fault.name:
                continue
            if until - time.monotonic() < 60.0 * _LAST and not options.short:
                results.append(_show(Result(fault.name, skipped="no time was left")))
                continue
            results.append(_show(trials.run(fault)))
    finally:
        trials.close()
    if not options.short:
        if options.only:
            _write(load, _beside_earlier(results), "; not all rows in one run")
        else:
            _write(load, results)
    return 0 if all(result.is_good for result in results) else 1


def _show(result: Result) -> Result:
    sys.stdout.write(table([result.to_dict()]))
    sys.stdout.flush()
    return result


def _beside_earlier(results: list[Result]) -> list[Result]:
    """Return new results in place of, or after, those of the page; that without a fault is kept."""
    earlier = json.loads((_DOCS / "chaos.json").read_text())["results"]
    rows = {row["fault"]: Result(**row) for row in earlier}
    rows |= {each.fault: each for each in results[1:]}
    order = [fault.name for fault in FAULTS]
    return sorted(
        rows.values(), key=lambda row: order.index(row.fault) if row.fault in order else -1
    )


def _write(load: Load, results: list[Result], remark: str = "") -> None:
    data = {
        "n_walkers": load.n_walkers,
        "n_runs": load.n_runs,
        "n_steps": load.n_steps,
        "watchdog": WATCHDOG,
        "machine": f"{os.cpu_count()} cores ({platform.machine()}, {platform.system()}){remark}",
        "results": [result.to_dict() for result in results],
    }
    (_DOCS / "chaos.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    (_DOCS / "chaos.md").write_text(page(data))


if __name__ == "__main__":
    sys.exit(main())
