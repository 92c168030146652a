"""The cost of models of other projects in batches, compared with their own ASE calculators.

    python -m bench.measurements.families orb:FILE mace:FILE chgnet:0.3.0

Each model needs its package; run the command once in each environment that `make test-models`
made. Eight systems with forces and stress are evaluated as one batch, and by eight calls of the
calculator. Both are called in turn in one process that keeps freed memory, on one thread. The
results are processor times, so that other programs on the machine do not count.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from bench.runner.command_line import parser_of
from bench.runner.machine import describe_machine
from bench.runner.record import RESULTS
from bench.runner.timing import Timing, time_in_turn
from twinforce import System
from twinforce_models import registry
from twinforce_models.memory import keep_freed_memory
from twinforce_models.prediction import predict
from twinforce_proto import OUTPUTS

REPORT = RESULTS / "families.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and add the results to bench/results/families.json."""
    parser = parser_of("bench.measurements.families", __doc__)
    parser.add_argument("specs", nargs="+", help="models, such as chgnet:0.3.0")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--seconds", type=float, default=20.0, help="duration for each model")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    report = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    for spec in options.specs:
        report |= measure(spec, options)
        REPORT.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")


def measure(spec: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the cost of a model in batches and with its calculator, for each group of systems."""
    family, _, rest = spec.partition(":")
    place, _, chosen = rest.partition("#")
    model = registry.load(spec, dtype=options.dtype)
    calculator = CALCULATORS[family](place, options.dtype)
    outputs = [name for name in OUTPUTS if name in model.info.outputs and "atom" not in name]
    found: dict[str, Any] = {}
    for group, systems in groups().items():
        ours = [System(a.numbers, a.positions, np.array(a.cell), a.pbc) for a in systems]
        calls: dict[str, Callable[[], object]] = {
            "batch": lambda ours=ours: predict(model.potential, ours, outputs),
            "calculator": lambda systems=systems: [calculator.calculate(a) for a in systems],
        }
        timings = time_in_turn(calls, options.seconds / 2, clock=time.process_time)
        name = ", ".join(filter(None, (model.info.name, chosen, options.dtype, group)))
        print(f"{name:50} batch {timings['batch']}   calculator {timings['calculator']}")
        found[name] = _summary(timings) | {"outputs": outputs, "machine": describe_machine(1)}
    return found


def groups() -> dict[str, list[Atoms]]:
    """Return groups of eight systems, displaced from symmetry."""
    salt = bulk("NaCl", "rocksalt", a=5.64).repeat((2, 2, 2))
    copper = bulk("Cu", "fcc", a=3.61, cubic=True).repeat((2, 2, 2))
    silicon = bulk("Si", "diamond", a=5.43, cubic=True).repeat((2, 2, 2))
    mixed = [copper, silicon, salt, copper] * 2
    found = {
        "288 atoms": [atoms.copy() for atoms in mixed],
        "8 x 16 atoms": [salt.copy() for _ in range(8)],
    }
    for seed, atoms in enumerate(each for systems in found.values() for each in systems):
        atoms.rattle(0.05, seed=seed)
    return found


def _summary(timings: dict[str, Timing]) -> dict[str, Any]:
    ratio = timings["calculator"].median / timings["batch"].median
    return {name: asdict(timing) for name, timing in timings.items()} | {"times_faster": ratio}


def _orb(place: str, dtype: str) -> Any:
    from orb_models.forcefield import pretrained
    from orb_models.forcefield.calculator import ORBCalculator

    named = [name for name in pretrained.ORB_PRETRAINED_MODELS if name in Path(place).name]
    make = pretrained.ORB_PRETRAINED_MODELS[max(named, key=len)]
    weights = {"weights_path": place} if Path(place).is_file() else {}
    precision = "float64" if dtype == "float64" else "float32-highest"
    model = make(device="cpu", precision=precision, compile=False, **weights)
    return ORBCalculator(model, device="cpu")


def _mace(place: str, dtype: str) -> Any:
    from mace.calculators import MACECalculator, mace_mp

    if not Path(place).is_file():
        return mace_mp(place, device="cpu", default_dtype=dtype)
    network = torch.load(place, weights_only=False)  # a file that the caller names
    return MACECalculator(models=[network], device="cpu", default_dtype=dtype)


def _chgnet(place: str, _: str) -> Any:
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator

    return CHGNetCalculator(CHGNet.load(model_name=place, use_device="cpu"), use_device="cpu")


def _sevenn(place: str, _: str) -> Any:
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator(place, device="cpu")


def _mattersim(place: str, _: str) -> Any:
    from mattersim.forcefield import MatterSimCalculator

    return MatterSimCalculator.from_checkpoint(place, device="cpu", load_training_state=False)


CALCULATORS = {
    **{"orb": _orb, "mace": _mace, "chgnet": _chgnet, "sevenn": _sevenn},
    "mattersim": _mattersim,
}

if __name__ == "__main__":
    main()
