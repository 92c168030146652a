"""Keep a service under mixed load, judge whether it stays flat, and write docs/soak.md."""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.soak.judging import judge
from tests.soak.load import Access, run_all
from tests.soak.page import page, plot
from tests.soak.sampling import Sample, sample
from tests.soak.service import Soaked

DOCS = Path(__file__).parents[2] / "docs"
_N_PARTS = 30


def main() -> int:
    """Soak; return 1 if a rule is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--note", default="", help="remark for the page")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the page")
    options = parser.parse_args()
    data = soak(60.0 * options.minutes) | {"note": options.note}
    (options.docs / "images").mkdir(parents=True, exist_ok=True)
    (options.docs / "soak.json").write_text(json.dumps(data, indent=1) + "\n")
    (options.docs / "soak.md").write_text(page(data), encoding="utf-8")
    plot(data["samples"], options.docs / "images" / "soak.png")
    verdicts = judge(data["samples"], data["n_failed"], data["errors"])
    for each in verdicts:
        sys.stdout.write(f"{'kept' if each.is_kept else 'BROKEN'}: {each.rule}: {each.found}\n")
    return 0 if all(each.is_kept for each in verdicts) else 1


def soak(seconds: float) -> dict:
    """Return all that was measured, as plain data."""
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as folder,
        ProcessPoolExecutor(1, context) as processes,
    ):
        service = Soaked(Path(folder))
        try:
            access = Access(service.urls, service.key, str(service.ca))
            load = processes.submit(run_all, access, seconds)
            samples, n_failed = sample(service, access, seconds, seconds / _N_PARTS, _show)
            counts, errors = load.result(seconds + 300.0)
        finally:
            code = service.stop()
    return {
        "samples": [each.to_dict() for each in samples],
        "n_failed": n_failed,
        "counts": counts,
        "errors": [*errors, *([f"the service ended with {code}"] if code else [])],
        "machine": f"{os.cpu_count()} cores ({platform.machine()}, {platform.system()})",
        "load": round(os.getloadavg()[2], 1),
    }


def _show(sample: Sample) -> None:
    sys.stdout.write(f"{json.dumps(sample.to_dict())}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
