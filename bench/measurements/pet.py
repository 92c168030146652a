"""The cost of a PET from its checkpoint and as TorchScript, compared with metatomic's calculator.

    python -m bench.measurements.pet

The weights are random, because the cost does not depend on them. `small` is a toy; `like pet-mad-s`
has the default hyperparameters of metatrain's PET with a cutoff that adapts to about 16 neighbors,
about the size of the smallest published universal models. Positions change at every call, as in
molecular dynamics. The calculator is used in both ways that it offers: as an ASE calculator, one
system after another, and with `compute_energy` for all systems of a batch at once. All variants are
called in turn in one process, which keeps freed memory for all of them alike. The results are CPU
times of a call, so that other programs on the machine do not count.
"""

import copy
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
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

from bench.runner.command_line import parser_of
from bench.runner.machine import describe_machine
from bench.runner.record import RESULTS
from bench.runner.systems import WATER, shaken
from bench.runner.timing import Timing, time_in_turn
from twinforce import System
from twinforce_models import registry
from twinforce_models.memory import keep_freed_memory
from twinforce_models.potential import Potential
from twinforce_models.prediction import predict

SIZES = {
    "small": {"d_pet": 32, "d_head": 32, "d_node": 64, "d_feedforward": 64, "num_heads": 4,
              "num_attention_layers": 1},
    "like pet-mad-s": {"cutoff": 7.5, "num_neighbors_adaptive": 16},
}  # fmt: skip
OUTPUTS = {
    "conservative": ("energy", "conservative_forces", "conservative_stress"),
    "direct": ("direct_forces", "direct_stress"),
    "both": ("energy", "conservative_forces", "conservative_stress", "direct_forces"),
}
CALCULATOR_VARIANTS = ("", " at once")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write bench/results/pet.json."""
    parser = parser_of("bench.measurements.pet", __doc__)
    parser.add_argument("--seconds", type=float, default=20.0,
                        help="duration for a single system of each size; for a batch, times the "
                        "square root of its number of systems")  # fmt: skip
    parser.add_argument("--batch", type=int, default=4, help="number of systems in a batch")
    parser.add_argument(
        "--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="sizes of the PET"
    )
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    report: dict[str, object] = {
        "machine": describe_machine(1) | {"metatrain": version("metatrain")},
        "unit": "ms of processor time for all systems of a call: median and middle 80%",
    }
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            paths = save(size, Path(folder))
            for n_systems in (1, options.batch):
                print(f"{size}, {n_systems} x 192 atoms")
                report[f"{size}, {n_systems} x 192 atoms"] = measure(
                    paths, n_systems, options.seconds * n_systems**0.5
                )
    (RESULTS / "pet.json").write_text(json.dumps(report, indent=1) + "\n")


def measure(paths: tuple[Path, Path], n_systems: int, seconds: float) -> dict[str, object]:
    """Return the cost of each set of outputs with each variant."""
    checkpoint, exported = (registry.load(path).potential for path in paths)
    atoms = ase.io.read(WATER)
    shake = shaken(System(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc))
    calls: dict[str, Callable[[], object]] = {}
    for kind, outputs in OUTPUTS.items():
        for name, potential in (("checkpoint", checkpoint), ("exported", exported)):
            calls[f"{kind}, {name}"] = _evaluation(potential, shake, outputs, n_systems)
    for kind, is_direct in (("conservative", False), ("direct", True)):
        calculator = MetatomicCalculator(str(paths[1]), non_conservative=is_direct)
        calls[f"{kind}, calculator"] = _calculation(calculator, atoms, shake, n_systems)
        if n_systems > 1:
            calls[f"{kind}, calculator at once"] = _together(calculator, atoms, shake, n_systems)
    timings = time_in_turn(calls, seconds, clock=time.process_time)
    results = {}
    for name, timing in timings.items():
        ratio = timing.median / _fastest_calculator(name.partition(",")[0], timings)
        print(f"{name:34}{timing}   x {ratio:.2f}")
        results[name] = asdict(timing) | {"over_calculator": ratio}
    return results


def _fastest_calculator(kind: str, timings: Mapping[str, Timing]) -> float:
    """Return the median of the faster variant of the calculator.

    Both forces together are compared with conservative ones.
    """
    base = "direct" if kind == "direct" else "conservative"
    names = [f"{base}, calculator{variant}" for variant in CALCULATOR_VARIANTS]
    return min(timings[name].median for name in names if name in timings)


def save(size: str, folder: Path) -> tuple[Path, Path]:
    """Write a PET with random weights as a checkpoint and as TorchScript; return both paths."""
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


def _together(
    calculator: MetatomicCalculator, atoms: ase.Atoms, shake: Callable[[], System], n_systems: int
) -> Callable[[], object]:
    def calculate() -> None:
        moved = [atoms.copy() for _ in range(n_systems)]
        for each in moved:
            each.positions = shake().positions
        calculator.compute_energy(moved, compute_forces_and_stresses=True)

    return calculate


if __name__ == "__main__":
    main()
