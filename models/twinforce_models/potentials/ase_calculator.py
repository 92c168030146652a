"""Any ASE calculator as a potential: one system after another, with what it implements.

ase:ase.calculators.emt:EMT#asap_cutoff=true
ase:tblite.ase:TBLite#method=GFN2-xTB&elements=H-C-O
"""

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.data import atomic_numbers
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray
from torch import Tensor

from twinforce_models.batch import Batch
from twinforce_models.loading.source import Source
from twinforce_models.potential import Heads
from twinforce_proto import ModelLoadError, PredictionError, UnsupportedOutputError

Floats = NDArray[np.float64]

_NO_NEIGHBORS = 1e-3
"""Cutoff of the neighbor list, in Å: a calculator finds neighbors by itself."""

_OUTPUTS = {"energy": "energy", "forces": "conservative_forces", "stress": "conservative_stress"}
_DIMENSIONS = 3
_ALL_ELEMENTS = range(1, 119)


class AsePotential:
    """A `Potential` around an ASE calculator.

    The energy is the one that the forces belong to: that of the free electrons ("free_energy") of a
    calculator that tells both. There are no second derivatives.

    Attributes:
        elements: Elements that the user says the calculator supports; by default all.
        outputs: Energy, conservative forces and stress, as far as they are implemented. Calculators
            that have no stress unless a system is periodic say so when they are asked for one.
    """

    cutoff = _NO_NEIGHBORS
    dtype = torch.float64
    device = torch.device("cpu")
    uses_charge = uses_spin = False

    def __init__(self, ase_calculator: Any, elements: Sequence[int] = _ALL_ELEMENTS) -> None:
        """Wrap a calculator."""
        self._calculator = ase_calculator
        self.elements = tuple(elements)
        implemented = set(ase_calculator.implemented_properties)
        self.outputs = frozenset(_OUTPUTS[name] for name in _OUTPUTS if name in implemented)

    def forward_heads(self, batch: Batch, *, direct: bool) -> Heads:  # noqa: ARG002
        """Evaluate the systems of a batch; there are no direct heads."""
        evaluate: Callable[..., Tensor] = _Evaluation.apply
        return Heads(energy=evaluate(batch.positions, batch.cells, self, batch))

    def evaluate(self, atoms: Atoms, names: Sequence[str]) -> dict[str, Floats]:
        """Return energy, forces and stress of a system, as far as they are named.

        Raises:
            PredictionError: If the calculator fails or leaves one out.
            UnsupportedOutputError: If it has no stress of a system like this one.
        """
        try:
            self._calculator.results = {}  # as ASE does, before it asks about another system
            with torch.enable_grad():  # for calculators that use torch themselves
                self._calculator.calculate(atoms, list(names), all_changes)
            results = dict(self._calculator.results)
        except PropertyNotImplementedError as error:
            raise _without(names, atoms) from error
        except (Exception, SystemExit) as error:  # of the calculator's own classes
            raise PredictionError(
                f"the calculator failed: {type(error).__name__}: {error}"
            ) from error
        missing = [name for name in names if results.get(name) is None]
        if missing == ["stress"]:
            raise _without(missing, atoms)
        if missing:
            raise PredictionError(f"the calculator returned no {', '.join(missing)}")
        if results.get("free_energy") is not None:
            results["energy"] = results["free_energy"]
        found = {name: _array(name, results[name], len(atoms)) for name in names}
        if "stress" in found and found["stress"].shape != (3, 3):
            found["stress"] = voigt_6_to_full_3x3_stress(found["stress"])
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Slopes:
    """The energy of a system, and its gradients with respect to positions and cell."""

    energy: float
    positions: Floats
    cell: Floats


class _Evaluation(torch.autograd.Function):
    """The energies of the systems of a batch as a function of positions and cells."""

    @staticmethod
    def forward(
        ctx: Any, positions: Tensor, cells: Tensor, potential: AsePotential, batch: Batch
    ) -> Tensor:
        del positions, cells  # those of the batch; autograd needs them as arguments
        wants_forces, wants_stress, *_ = ctx.needs_input_grad
        names = ["energy", *(["forces"] if wants_forces or wants_stress else [])]
        names += ["stress"] if wants_stress else []
        slopes = [_slopes(potential, atoms, _known(names, atoms)) for atoms in _systems(batch)]
        ctx.index = batch.system_index
        ctx.save_for_backward(
            torch.from_numpy(np.concatenate([each.positions for each in slopes])),
            torch.from_numpy(np.stack([each.cell for each in slopes])),
        )
        return torch.tensor([each.energy for each in slopes], dtype=torch.float64)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # somebody wants to differentiate the result again
            raise UnsupportedOutputError("an ASE calculator has no second derivatives")
        positions, cells = ctx.saved_tensors
        per_atom = weights.index_select(0, ctx.index)
        return per_atom[:, None] * positions, weights[:, None, None] * cells, None, None


def _array(name: str, value: Any, n_atoms: int) -> Floats:
    """Return a result of a calculator as an array of numbers.

    Raises:
        PredictionError: If it has other types or another shape than in ASE.
    """
    shapes = {"energy": ((), (1,)), "forces": ((n_atoms, 3),), "stress": ((6,), (3, 3))}[name]
    try:
        found = np.asarray(value)
        numbers = found.astype(np.float64, casting="same_kind")
    except (TypeError, ValueError) as error:
        raise PredictionError(
            f"the calculator returned no real numbers as {name}: {error}"
        ) from error
    if found.shape not in shapes:
        raise PredictionError(
            f"the calculator returned {name} of shape {found.shape}, expected "
            f"{' or '.join(map(str, shapes))}"
        )
    return numbers.reshape(()) if name == "energy" else numbers


def _known(names: Sequence[str], atoms: Atoms) -> list[str]:
    """Return the names without the stress of a system that has no volume, which others ask for."""
    return [name for name in names if name != "stress" or atoms.cell.rank == _DIMENSIONS]


def _without(names: Sequence[str], atoms: Atoms) -> UnsupportedOutputError:
    lacks = " or ".join(names)
    pbc = atoms.pbc.tolist()
    text = f"outputs: the calculator lacks the {lacks} of a system with pbc {pbc}"
    return UnsupportedOutputError(text, field="outputs")


def _slopes(potential: AsePotential, atoms: Atoms, names: Sequence[str]) -> _Slopes:
    """Evaluate a system.

        dE/dε = V σ = rᵀ dE/dr + hᵀ dE/dh        with r' = r (1 + ε), h' = h (1 + ε)

    r -> positions, h -> cell, ε -> strain, σ -> stress, V -> volume
    """
    found = potential.evaluate(atoms, names)
    positions = -found["forces"] if "forces" in found else np.zeros((len(atoms), 3))
    cell = np.zeros((3, 3))
    if "stress" in found:
        strain = atoms.get_volume() * found["stress"] - atoms.positions.T @ positions
        cell = np.linalg.solve(atoms.cell.array.T, strain)
    return _Slopes(float(found["energy"]), positions, cell)


def _systems(batch: Batch) -> list[Atoms]:
    sizes = list(batch.n_atoms_per_system)
    numbers, positions = (
        values.detach().split(sizes) for values in (batch.atomic_numbers, batch.positions)
    )
    return [
        _centered(Atoms(z.numpy(), r.numpy(), cell=h.numpy(), pbc=pbc.numpy()))
        for z, r, h, pbc in zip(numbers, positions, batch.cells.detach(), batch.pbc, strict=True)
    ]


def _centered(atoms: Atoms) -> Atoms:
    """Return the atoms in the middle of their cell along open directions.

    Some calculators need them inside, and those of a batch lie around the origin.
    """
    open_axes = tuple(np.flatnonzero(~atoms.pbc))
    if open_axes and atoms.cell.rank == 3:
        atoms.center(axis=open_axes)
    return atoms


def load(
    source: Source, *, elements: str | None = None, **arguments: str
) -> tuple[AsePotential, dict[str, Any]]:
    """Return a calculator as a potential, and facts for `ModelInfo`.

    Args:
        source: Its place is a module and a factory, "package.module:Factory".
        elements: Symbols of the supported elements, such as "H-C-O". None: all elements.
        arguments: Arguments of the factory. A value is read as JSON if it is JSON, and otherwise is
            a string.

    Raises:
        ModelLoadError: If the calculator cannot be made, or its package is not trusted.
    """
    factory = _import(source)
    values = {name: _value(text) for name, text in arguments.items()}
    try:
        calculator = factory(**values)
    except (Exception, SystemExit) as error:  # of the calculator's own classes
        raise ModelLoadError(
            f"model {source.spec.text!r}: {type(error).__name__}: {error}"
        ) from error
    if "energy" not in getattr(calculator, "implemented_properties", ()):
        raise ModelLoadError(
            f"model {source.spec.text!r}: expected an ASE calculator that implements the energy, "
            f"got {type(calculator).__name__}"
        )
    potential = AsePotential(calculator, _numbers(elements))
    if source.dtype not in (None, potential.dtype) or source.device.type != "cpu":
        raise ModelLoadError(
            f"model {source.spec.text!r}: expected float64 on the CPU, where a calculator receives "
            f"systems, got {source.dtype} on {source.device}"
        )
    identity = json.dumps([source.place, values], sort_keys=True)
    return potential, {
        "name": source.place.rpartition(":")[2].lower(),
        "version": _version(source.place),
        "sha256": hashlib.sha256(identity.encode()).hexdigest(),
        "metadata": {"calculator": source.place},
        "card": f"# {source.place}\n\nAn ASE calculator with the arguments `{values}`.\n",
    }


def _import(source: Source) -> Callable[..., Any]:
    module, _, name = source.place.partition(":")
    package = module.partition(".")[0]
    if not module or not name:
        raise ModelLoadError(
            f"model {source.spec.text!r}: expected ase:package.module:Factory, such as "
            "ase:ase.calculators.emt:EMT"
        )
    if not module.startswith("ase.calculators.") and package not in source.trust.packages:
        raise ModelLoadError(
            f"model {source.spec.text!r}: making this calculator runs code of the package "
            f"{package}. If you trust it, start the server with --trust-packages {package}"
        )
    try:
        factory: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ModelLoadError(f"model {source.spec.text!r}: {error}") from error
    return factory


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _numbers(elements: str | None) -> Sequence[int]:
    if elements is None:
        return _ALL_ELEMENTS
    symbols = elements.split("-")
    if unknown := [symbol for symbol in symbols if not atomic_numbers.get(symbol)]:
        raise ModelLoadError(
            f"elements: expected symbols such as H-C-O, got {', '.join(unknown) or elements}"
        )
    return sorted({atomic_numbers[symbol] for symbol in symbols})


def _version(place: str) -> str:
    """Return the version of the distribution that a calculator is part of."""
    package = place.partition(":")[0].partition(".")[0]
    distributions: Mapping[str, list[str]] = packages_distributions()
    return version(distributions[package][0]) if package in distributions else "unknown"
