"""Simulate, and write the data, plots and tables of docs/scaling.md."""

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
    """Run all simulations and write the page; return the exit code."""
    models = measured()
    pet = models["PET"]
    studies: dict[str, Callable[[], Any]] = {
        "replica": lambda: {name: _readings(each) for name, each in models.items()},
        "autoscaling": lambda: ramp(pet, 600, 30_000, _SEED),
        "zone_loss": lambda: loss(pet, 1000, 100_000, _SEED),
        "sticking": lambda: recovery(pet, 1000, 100_000, 60.0, _SEED),
        "starts": starts,
    }
    data: dict[str, Any] = {"parameters": {name: asdict(each) for name, each in models.items()}}
    for name, study in studies.items():
        began = time.perf_counter()
        data[name] = study()
        sys.stdout.write(f"{name}: {time.perf_counter() - began:.0f} s\n")
    _FOLDER.mkdir(exist_ok=True)
    (_FOLDER / "results.json").write_text(json.dumps(data) + "\n")
    draw(data, _FOLDER)
    (ROOT / "docs" / "scaling.md").write_text(page(data))
    return 0


def _readings(parameters: Parameters) -> list[dict[str, Any]]:
    seconds = 20.0
    return [asdict(read_metrics(parameters, n, seconds, _SEED)) for n in _N_WALKERS]


if __name__ == "__main__":
    sys.exit(main())
