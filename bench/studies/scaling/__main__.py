"""Simulate, and write the data, plots and tables of docs/scaling.md."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from bench.runner.machine import ROOT
from bench.studies.scaling.autoscaling import ramp
from bench.studies.scaling.page import page
from bench.studies.scaling.parameters import Parameters, measured
from bench.studies.scaling.plots import draw
from bench.studies.scaling.replica import read_metrics
from bench.studies.scaling.starts import starts
from bench.studies.scaling.sticking import recovery
from bench.studies.scaling.zone_loss import loss

_FOLDER = ROOT / "docs" / "scaling"
_SEED = 1
_N_WALKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def main() -> int:
    """Run the simulations that are named, or all, and write the page; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.scaling", description=__doc__)
    parser.add_argument("--only", nargs="*", help="simulate these alone, and keep the other data")
    models = measured()
    pet = models["PET"]
    studies: dict[str, Callable[[], Any]] = {
        "replica": lambda: {name: _readings(each) for name, each in models.items()},
        "starts": starts,
        "zone_loss": lambda: loss(pet, 1000, 100_000, _SEED),
        "sticking": lambda: recovery(pet, 1000, 100_000, 60.0, _SEED),
        "autoscaling": lambda: ramp(pet, 300, 6000, _SEED),
    }
    only = parser.parse_args().only
    results = _FOLDER / "results.json"
    data: dict[str, Any] = {} if only is None else json.loads(results.read_text())
    data["parameters"] = {name: asdict(each) for name, each in models.items()}
    _FOLDER.mkdir(exist_ok=True)
    for name in studies if only is None else only:
        began = time.process_time()
        data[name] = studies[name]()
        sys.stdout.write(f"{name}: {time.process_time() - began:.0f} s\n")
        sys.stdout.flush()
        results.write_text(json.dumps(data) + "\n")
    draw(data, _FOLDER)
    (ROOT / "docs" / "scaling.md").write_text(page(data))
    return 0


def _readings(parameters: Parameters) -> list[dict[str, Any]]:
    seconds = 20.0
    return [asdict(read_metrics(parameters, n, seconds, _SEED)) for n in _N_WALKERS]


if __name__ == "__main__":
    sys.exit(main())
