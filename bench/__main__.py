"""`python -m bench`, or `make bench`: every row of docs/performance.md, and the page itself.

Each part runs as a process of its own and has a limit; one that fails is told on the page, and the
others go on.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import page, record
from bench.machine import ROOT

# Name -> s of measuring, besides what it takes to start.
PARTS = {
    "cost": 60.0,
    "overhead": 80.0,
    "step": 30.0,
    "propagation": 60.0,
    "crowd": 60.0,
    "walkers": 90.0,
    "sizes": 90.0,
    "idle": 48.0,
    "gpu": 120.0,
}
# What starting, warming up and ending may take, in s.
MARGIN = 150.0


def measure(name: str, seconds: float, extra: Sequence[str], out: Path) -> str:
    """Run a part; return why it failed, or nothing."""
    command = [sys.executable, "-m", f"bench.{name}", f"--seconds={seconds}", f"--out={out}"]
    try:
        code = subprocess.run(
            [*command, *extra], cwd=ROOT, timeout=seconds + MARGIN, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return f"it took longer than {seconds + MARGIN:.0f} s"
    return f"it ended with {code}" if code else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the results and the page, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=f"of {', '.join(PARTS)}")  # fmt: skip
    parser.add_argument("--scale", type=float, default=1.0, help="of all durations")
    parser.add_argument("--ray-python", default=sys.executable, help="a Python that has Ray")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    parser.add_argument("--page", type=Path, default=page.PAGE)
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    rows: dict[str, object] = {}
    is_whole = True
    for name in options.only:
        print(f"\n== {name}", flush=True)
        extra = [f"--ray-python={options.ray_python}"] if name == "crowd" else []
        before, begin = os.getloadavg()[0], time.monotonic()
        failed = measure(name, options.scale * PARTS[name], extra, options.out)
        took = time.monotonic() - begin
        rows[name] = {"load_before": before, "seconds": took, "failed": failed}
        is_whole &= not failed
    kept = record.read(options.out, "run").get("rows", {})
    content = {"load_before": load, "rows": kept | rows}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "run.json").write_text(json.dumps(content, indent=2) + "\n")
    page.main([f"--results={options.out}", f"--page={options.page}"])
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
