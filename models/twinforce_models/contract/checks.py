"""The checks that make up the contract of a potential; each yields deviations from a rule."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from twinforce_models.batch import Batch
from twinforce_models.contract.systems import dimers, moved, rotation, shuffled
from twinforce_models.potential import Potential, outputs_if_periodic
from twinforce_models.prediction import predict
from twinforce_proto import OUTPUTS, STRESSES, Prediction, System, UnsupportedOutputError
from twinforce_proto.checks import has_volume

Floats = NDArray[np.float64]

Finding = tuple[float, str]
"""A deviation, and a note on where it was measured."""


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Largest accepted deviations: absolute up to 1 (eV, eV/Å, eV/Å³), relative beyond.

    Attributes:
        same: Between two ways to compute the same quantity.
        derivative: Between a derivative and its finite difference.
        steps: Steps of the finite differences, in Å, or as strains. The step that fits best
            counts: large steps suffer from curvature, small ones from rounding.
        edge: Distance from the cutoff within which a pair may contribute at most `same`, in Å.
    """

    same: float
    derivative: float
    steps: tuple[float, ...]
    edge: float

    @classmethod
    def of(cls, dtype: torch.dtype) -> "Tolerances":
        """Return the tolerances that are reachable in a data type."""
        if dtype == torch.float64:
            return cls(same=1e-9, derivative=1e-6, steps=(1e-3, 1e-4, 1e-5), edge=1e-6)
        return cls(same=2e-5, derivative=1e-2, steps=(3e-2, 1e-2, 3e-3), edge=1e-4)


@dataclass(frozen=True, slots=True, eq=False)
class ContractCase:
    """A potential under test, with the systems and tolerances of the test."""

    potential: Potential
    systems: Sequence[System]
    tolerances: Tolerances
    rng: np.random.Generator

    def predict(self, systems: Sequence[System], *outputs: str) -> list[Prediction]:
        """Evaluate systems together."""
        return predict(self.potential, systems, outputs)

    def outputs_for(self, *systems: System) -> tuple[str, ...]:
        """Return the outputs that the potential provides for all of these systems together."""
        has = self.potential.outputs
        if not all(has_volume(system.cell) for system in systems):
            has -= STRESSES
        if not all(system.pbc.all() for system in systems):
            has -= outputs_if_periodic(self.potential)
        return tuple(name for name in OUTPUTS if name in has)

    def full(self, system: System) -> Prediction:
        """Return all outputs of a system, computed alone."""
        return self.predict([system], *self.outputs_for(system))[0]


def outputs_are_complete(case: ContractCase) -> Iterator[Finding]:
    """Yield 0 for each declared output that is present, finite and of the right shape."""
    for index, system in enumerate(case.systems):
        prediction = case.full(system)
        for name in case.outputs_for(system):
            value = np.asarray(getattr(prediction, name))
            shape = _shape(name, len(system))
            if value.shape != shape:
                yield np.inf, f"systems[{index}].{name}: expected shape {shape}, got {value.shape}"
            yield float(not np.isfinite(value).all()), f"systems[{index}].{name}"


def absent_outputs_are_refused(case: ContractCase) -> Iterator[Finding]:
    """Yield 0 for each undeclared output whose request raises an error."""
    for name in sorted(set(OUTPUTS) - case.potential.outputs):
        try:
            case.predict(case.systems[:1], name)
        except UnsupportedOutputError:
            yield 0.0, name
        else:
            yield np.inf, f"{name} was returned although it is not declared"


def inputs_are_unchanged(case: ContractCase) -> Iterator[Finding]:
    """Yield 0 for each tensor of a batch that a forward pass does not modify."""
    potential = case.potential
    batch = Batch.from_systems(case.systems, potential.cutoff, potential.dtype, potential.device)
    names = [n for n in Batch.__slots__ if isinstance(getattr(batch, n), torch.Tensor)]
    before = {name: getattr(batch, name).clone() for name in names}
    with torch.no_grad():
        potential.forward_heads(batch, direct=_has_direct(potential))
    for name in names:
        yield float(not torch.equal(before[name], getattr(batch, name))), f"batch.{name}"


def atom_energies_add_up(case: ContractCase) -> Iterator[Finding]:
    """Compare each energy with the sum over its atoms, if the potential provides both."""
    if "atom_energies" not in case.potential.outputs:
        return
    for index, system in enumerate(case.systems):
        one = case.predict([system], "energy", "atom_energies")[0]
        assert one.atom_energies is not None
        yield _apart(one.energy, one.atom_energies.sum()), f"systems[{index}]"


def batched_as_alone(case: ContractCase) -> Iterator[Finding]:
    """Compare predictions of systems in a batch with predictions of the same systems alone."""
    alone = [case.full(system) for system in case.systems]
    for chosen in (case.systems, [s for s in case.systems if has_volume(s.cell)]):
        if chosen:
            together = case.predict(chosen, *case.outputs_for(*chosen))
            reference = [a for a, s in zip(alone, case.systems, strict=True) if s in chosen]
            for index, (one, other) in enumerate(zip(together, reference, strict=True)):
                yield from _differences(one, other, f"systems[{index}] of {len(chosen)}")


def together_as_one_by_one(case: ContractCase) -> Iterator[Finding]:
    """Compare each output computed alone with the same output from one pass for all outputs."""
    for index, system in enumerate(case.systems):
        everything = case.full(system)
        for name in case.outputs_for(system):
            alone = case.predict([system], name)[0]
            yield from _differences(alone, everything, f"systems[{index}]")


def unchanged_by_translation(case: ContractCase) -> Iterator[Finding]:
    """Compare systems with translated copies."""
    for index, system in enumerate(case.systems):
        step = case.rng.uniform(-10, 10, size=3)
        other = case.full(system.moved(system.positions + step))
        yield from _differences(other, case.full(system), f"systems[{index}]")


def unchanged_by_permutation(case: ContractCase) -> Iterator[Finding]:
    """Compare systems with copies whose atoms are reordered."""
    for index, system in enumerate(case.systems):
        order = case.rng.permutation(len(system))
        other, one = case.full(shuffled(system, order)), case.full(system)
        for name, value in _set_values(other):
            expected = np.asarray(getattr(one, name))
            expected = expected if name == "energy" or name in STRESSES else expected[order]
            yield _apart(value, expected), f"systems[{index}].{name}"


def unchanged_by_whole_cells(case: ContractCase) -> Iterator[Finding]:
    """Compare periodic systems with copies whose atoms are moved by lattice vectors."""
    for index, system in enumerate(case.systems):
        if system.pbc.any():
            cells = case.rng.integers(-3, 4, size=(len(system), 3)) * system.pbc
            other = case.full(system.moved(system.positions + cells @ system.cell))
            yield from _differences(other, case.full(system), f"systems[{index}]")


def continuous_at_cutoff(case: ContractCase) -> Iterator[Finding]:
    """Compare energy and forces with an atom just inside and just outside the cutoff."""
    edge = case.tolerances.edge
    names = tuple(n for n in OUTPUTS if n not in STRESSES and n in case.potential.outputs)
    elements, cutoff = case.potential.elements, case.potential.cutoff
    for inside, outside in dimers(elements, cutoff - edge, cutoff + edge):
        one, other = case.predict([inside, outside], *names)
        yield from _differences(one, other, f"elements {inside.atomic_numbers.tolist()}")


def forces_are_gradient(case: ContractCase) -> Iterator[Finding]:
    """Compare conservative forces with finite differences of the energy."""
    if "conservative_forces" not in case.potential.outputs:
        return
    for index, system in enumerate(case.systems):
        forces = case.predict([system], "conservative_forces")[0].conservative_forces
        assert forces is not None
        for direction in _directions(case.rng, forces.shape):
            slopes = _finite_differences(case, partial(_displaced, system, direction))
            projected = -float((forces * direction).sum())
            yield _apart_at_best(projected, slopes, forces), f"systems[{index}]"


def stress_is_gradient(case: ContractCase) -> Iterator[Finding]:
    """Compare the conservative stress with finite strains of the energy."""
    for index, system in enumerate(case.systems):
        if "conservative_stress" in case.outputs_for(system):
            stress = case.predict([system], "conservative_stress")[0].conservative_stress
            assert stress is not None
            volume = abs(np.linalg.det(system.cell))
            for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
                strain = np.zeros((3, 3))
                strain[a, b] = strain[b, a] = 1.0
                slopes = _finite_differences(case, partial(_strained, system, strain)) / volume
                projected = float((stress * strain).sum())
                yield _apart_at_best(projected, slopes, stress), f"systems[{index}], {a}{b}"


def rotates(*names: str) -> Callable[[ContractCase], Iterator[Finding]]:
    """Return the check that these outputs of a rotated system are the rotated outputs."""

    def check(case: ContractCase) -> Iterator[Finding]:
        for index, system in enumerate(case.systems):
            turn = rotation(case.rng)
            one, other = case.full(system), case.full(moved(system, turn))
            for name, value in _set_values(other):
                if name in names:
                    expected = _rotated(name, getattr(one, name), turn)
                    yield _apart(value, expected), f"systems[{index}].{name}"

    return check


def _rotated(name: str, value: Floats, turn: Floats) -> Floats:
    if name in STRESSES:
        return np.asarray(turn.T @ value @ turn)
    return np.asarray(value @ turn) if name.endswith("forces") else np.asarray(value)


def _directions(rng: np.random.Generator, shape: tuple[int, ...]) -> Iterator[Floats]:
    """Yield unit vectors: three that move all atoms, and three that move one atom along an axis."""
    for _ in range(3):
        direction = rng.normal(size=shape)
        yield direction / np.linalg.norm(direction)
    for axis in range(3):
        single = np.zeros(shape)
        single[rng.integers(shape[0]), axis] = 1.0
        yield single


def _displaced(system: System, direction: Floats, step: float) -> System:
    return system.moved(system.positions + step * direction)


def _strained(system: System, strain: Floats, step: float) -> System:
    return moved(system, np.eye(3) + step * strain)


def _finite_differences(case: ContractCase, along: Callable[[float], System]) -> Floats:
    """Return dE/dstep at 0 to fourth order, for each step size, all from one batch."""
    steps = np.array(case.tolerances.steps)
    systems = [along(step * times) for step in steps for times in (-2, -1, 1, 2)]
    energies = [prediction.energy for prediction in case.predict(systems, "energy")]
    rows = np.array(energies, dtype=float).reshape(len(steps), 4)
    return np.asarray(rows @ (1.0, -8.0, 8.0, -1.0) / (12.0 * steps))


def _differences(one: Prediction, other: Prediction, where: str) -> Iterator[Finding]:
    for name, value in _set_values(one):
        yield _apart(value, getattr(other, name)), f"{where}.{name}"


def _set_values(prediction: Prediction) -> Iterator[tuple[str, Floats]]:
    for name in OUTPUTS:
        if (value := getattr(prediction, name)) is not None:
            yield name, np.asarray(value)


def _apart(value: object, expected: object) -> float:
    value, expected = np.asarray(value, dtype=float), np.asarray(expected, dtype=float)
    return float(np.abs(value - expected).max() / max(1.0, float(np.abs(expected).max())))


def _apart_at_best(value: float, slopes: Floats, reference: Floats) -> float:
    return float(np.abs(value - slopes).min() / max(1.0, float(np.abs(reference).max())))


def _shape(name: str, n_atoms: int) -> tuple[int, ...]:
    if name in STRESSES:
        return (3, 3)
    return {"energy": (), "atom_energies": (n_atoms,)}.get(name, (n_atoms, 3))


def _has_direct(potential: Potential) -> bool:
    return any(name.startswith("direct") for name in potential.outputs)
