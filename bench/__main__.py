"""Run the measurements behind docs/performance.md and write the page: `make bench`.

    python -m bench --only step crowd

Each measurement runs in a separate process with a time limit. The page names those that fail; the
others run all the same.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.report import page
from bench.runner import record
from bench.runner.command_line import parser_of
from bench.runner.machine import ROOT

# Name of a measurement -> its duration without start-up, in s.
PARTS = {
    "cost": 60.0,
    "overhead": 80.0,
    "step": 30.0,
    "access": 60.0,
    "propagation": 60.0,
    "crowd": 60.0,
    "walkers": 90.0,
    "sizes": 90.0,
    "idle": 48.0,
    "gpu": 120.0,
}
# Time that start-up, warm-up and shutdown of a measurement may take, in s.
MARGIN = 150.0


def measure(name: str, seconds: float, extra: Sequence[str], out: Path) -> str:
    """Run a measurement; return why it failed, or an empty string."""
    command = [sys.executable, "-m", f"bench.measurements.{name}"]
    try:
        code = subprocess.run(
            [*command, f"--seconds={seconds}", f"--out={out}", *extra],
            cwd=ROOT,
            timeout=seconds + MARGIN,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        return f"it took longer than {seconds + MARGIN:.0f} s"
    return f"it ended with exit status {code}" if code else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurements, write the results and the page, and return the exit status."""
    parser = parser_of("bench", __doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help="measurements to run")  # fmt: skip
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all durations")
    parser.add_argument("--ray-python", default=sys.executable, help="a Python that has Ray")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the results")
    parser.add_argument("--page", type=Path, default=page.PAGE, help="page to write")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    rows: dict[str, object] = {}
    all_succeeded = True
    for name in options.only:
        print(f"\n== {name}", flush=True)
        extra = [f"--ray-python={options.ray_python}"] if name == "crowd" else []
        before, begin = os.getloadavg()[0], time.monotonic()
        failed = measure(name, options.scale * PARTS[name], extra, options.out)
        took = time.monotonic() - begin
        rows[name] = {"load_before": before, "seconds": took, "failed": failed}
        all_succeeded &= not failed
    kept = record.read(options.out, "run").get("rows", {})
    content = {"load_before": load, "rows": kept | rows}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "run.json").write_text(json.dumps(content, indent=2) + "\n")
    page.main([f"--results={options.out}", f"--page={options.page}"])
    return 0 if all_succeeded else 1


if __name__ == "__main__":
    sys.exit(main())
