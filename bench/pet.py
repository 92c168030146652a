"""What a PET costs served from its checkpoint and as TorchScript, beside metatomic's calculator.

    python -m bench.pet

Random weights: the cost does not depend on them. `small` is a toy, `like pet-mad-s` has the default
hyperparameters of metatrain's PET with a cutoff that adapts to some 16 neighbors, about the size
of the smallest published universal models. Positions change at every call, as they do in
molecular dynamics. The calculator evaluates one system at a time: of a batch it takes each in turn.
"""

import argparse
import copy
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import ase.io
import torch
from metatomic_ase import MetatomicCalculator
from metatrain.pet import PET
from metatrain.utils.architectures import get_default_hypers
from metatrain.utils.data import DatasetInfo
from metatrain.utils.data.target_info import get_energy_target_info, get_generic_target_info

from bench.machine import ROOT, describe_machine
from bench.overhead import shaken
from bench.timing import time_in_turn
from twinforce import System
from twinforce_models import registry
from twinforce_models.memory import keep_freed_memory
from twinforce_models.potential import Potential, predict

SIZES = {
    "small": {"d_pet": 32, "d_head": 32, "d_node": 64, "d_feedforward": 64, "num_heads": 4,
              "num_attention_layers": 1},
    "like pet-mad-s": {"cutoff": 7.5, "num_neighbors_adaptive": 16},
}  # fmt: skip
OUTPUTS = {
    "conservative": ("energy", "conservative_forces", "conservative_stress"),
    "direct": ("direct_forces", "direct_stress"),
    "both": ("energy", "conservative_forces", "direct_forces"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write bench/results/pet.json."""
    parser = argparse.ArgumentParser(prog="bench.pet", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each size and batch")
    parser.add_argument("--batch", type=int, default=4, help="systems in a batch")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    report: dict[str, object] = {
        "machine": describe_machine(1) | {"metatrain": version("metatrain")},
        "unit": "ms for all systems of a call: median and middle 80%",
    }
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            paths = save(size, Path(folder))
            for n_systems in (1, options.batch):
                print(f"{size}, {n_systems} x 192 atoms")
                report[f"{size}, {n_systems} x 192 atoms"] = measure(
                    paths, n_systems, options.seconds
                )
    path = ROOT / "bench" / "results" / "pet.json"
    path.write_text(json.dumps(report, indent=1) + "\n")


def measure(paths: tuple[Path, Path], n_systems: int, seconds: float) -> dict[str, object]:
    """Return the cost of each way to ask for each set of outputs."""
    checkpoint, exported = (registry.load(path).potential for path in paths)
    atoms = ase.io.read(ROOT / "demo" / "water64.xyz")
    shake = shaken(System(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc))
    calls: dict[str, Callable[[], object]] = {}
    for kind, outputs in OUTPUTS.items():
        for name, potential in (("checkpoint", checkpoint), ("exported", exported)):
            calls[f"{kind}, {name}"] = _evaluation(potential, shake, outputs, n_systems)
    for kind, is_direct in (("conservative", False), ("direct", True)):
        calculator = MetatomicCalculator(str(paths[1]), non_conservative=is_direct)
        calls[f"{kind}, calculator"] = _calculation(calculator, atoms, shake, n_systems)
    timings = time_in_turn(calls, seconds)
    for name, timing in timings.items():
        print(f"{name:28}{timing}")
    return {name: asdict(timing) for name, timing in timings.items()}


def save(size: str, folder: Path) -> tuple[Path, Path]:
    """Write a PET of random weights as a checkpoint and as TorchScript."""
    torch.manual_seed(0)
    hypers = copy.deepcopy(get_default_hypers("pet")["model"]) | SIZES[size]
    targets = {"energy": get_energy_target_info("energy", {"quantity": "energy", "unit": "eV"})}
    for name, unit, rank, kind in (
        ("non_conservative_force", "eV/angstrom", 1, "atom"),
        ("non_conservative_stress", "eV/angstrom^3", 2, "system"),
    ):
        shape = {"type": {"cartesian": {"rank": rank}}, "sample_kind": kind, "num_subtargets": 1}
        target = {"quantity": "", "unit": unit, "description": ""} | shape
        targets[name] = get_generic_target_info(name, target)
    info = DatasetInfo(length_unit="angstrom", atomic_types=[1, 8], targets=targets)
    pet = PET(hypers, info).eval()
    checkpoint, exported = folder / "pet.ckpt", folder / "pet.pt"
    torch.save(pet.get_checkpoint(), checkpoint)
    pet.export().save(str(exported))
    return checkpoint, exported


def _evaluation(
    potential: Potential, shake: Callable[[], System], outputs: tuple[str, ...], n_systems: int
) -> Callable[[], object]:
    return lambda: predict(potential, [shake() for _ in range(n_systems)], outputs)


def _calculation(
    calculator: MetatomicCalculator, atoms: ase.Atoms, shake: Callable[[], System], n_systems: int
) -> Callable[[], object]:
    def calculate() -> None:
        for _ in range(n_systems):
            moved = atoms.copy()
            moved.positions = shake().positions
            moved.calc = calculator
            moved.get_forces()
            moved.get_stress()

    return calculate


if __name__ == "__main__":
    main()
