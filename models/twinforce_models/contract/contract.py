"""What every potential must keep, as a function that model authors can run on theirs.

For example:

    report = check_potential(MyPotential(dtype=torch.float64))
    print(report)
    report.raise_if_broken()
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from twinforce_models.contract import checks
from twinforce_models.contract.checks import ContractCase, Finding, Tolerances
from twinforce_models.contract.systems import default_systems
from twinforce_models.potential import Potential
from twinforce_proto import OUTPUTS, System


class BrokenContractError(AssertionError):
    """A potential does not do what every potential must."""


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found.

    Attributes:
        name: What was expected to hold.
        deviation: By how much it does not; None when there was nothing to measure.
        tolerance: What would have been tolerated; None for what is only reported.
        note: Where it was worst, or what went wrong.
        is_broken: Whether the potential fails the check.
    """

    name: str
    deviation: float | None
    tolerance: float | None
    note: str
    is_broken: bool


@dataclass(frozen=True, slots=True)
class ContractReport:
    """Every check that was made; printable."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is broken."""
        return not self.broken

    @property
    def broken(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.is_broken)

    def raise_if_broken(self) -> None:
        """Raise `BrokenContractError` with the whole table unless everything passed."""
        if not self.passed:
            raise BrokenContractError(f"the potential breaks its contract\n{self}")

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        return "\n".join(_row(check, width) for check in self.checks)


def check_potential(
    potential: Potential,
    systems: Sequence[System] | None = None,
    *,
    tolerances: Tolerances | None = None,
    seed: int = 0,
) -> ContractReport:
    """Check what every potential must keep; takes some hundred evaluations.

    Args:
        potential: In float64, if it can: derivatives are then checked sharply.
        systems: To test on. None: five small ones of the potential's elements, with every kind
            of boundary condition.
        tolerances: None: those of the potential's dtype.
        seed: Of the random displacements.
    """
    case = ContractCase(
        potential,
        default_systems(potential.elements, potential.cutoff) if systems is None else systems,
        tolerances or Tolerances.of(potential.dtype),
        np.random.default_rng(seed),
    )
    same, derivative = case.tolerances.same, case.tolerances.derivative
    planned: list[tuple[str, float | None, Callable[[ContractCase], Iterator[Finding]]]] = [
        ("declared outputs are given, finite, in shape", 0.0, checks.outputs_are_complete),
        ("absent outputs are an error", 0.0, checks.absent_outputs_are_refused),
        ("inputs are not changed", 0.0, checks.inputs_are_unchanged),
        ("atom energies add up to the energy", same, checks.atom_energies_add_up),
        ("in a batch as alone", same, checks.batched_as_alone),
        ("all outputs at once as one by one", same, checks.together_as_one_by_one),
        ("unchanged by translation", same, checks.unchanged_by_translation),
        ("unchanged by permutation", same, checks.unchanged_by_permutation),
        ("unchanged by whole cells (unwrapped atoms)", same, checks.unchanged_by_whole_cells),
        ("energy and forces continuous at the cutoff", same, checks.continuous_at_cutoff),
        ("conservative forces = -dE/dr", derivative, checks.forces_are_gradient),
        ("conservative stress = dE/dstrain / V", derivative, checks.stress_is_gradient),
        (
            "energy turns with the system",
            None,
            partial(checks.turns, names=("energy", "atom_energies")),
        ),
        ("conservative part turns", None, partial(checks.turns, names=_named("conservative"))),
        ("direct part turns", None, partial(checks.turns, names=_named("direct"))),
    ]
    return ContractReport(tuple(_run(case, *check) for check in planned))


def _run(
    case: ContractCase,
    name: str,
    tolerance: float | None,
    findings: Callable[[ContractCase], Iterator[Finding]],
) -> Check:
    try:
        found = list(findings(case))
    except Exception as error:
        return Check(name, None, tolerance, f"{type(error).__name__}: {error}", is_broken=True)
    if not found:
        return Check(name, None, tolerance, "nothing to check", is_broken=False)
    # NaN compares false with everything: it must count as the worst, and as broken.
    deviation, note = max(found, key=lambda f: np.inf if np.isnan(f[0]) else f[0])
    is_broken = tolerance is not None and not deviation <= tolerance
    return Check(name, deviation, tolerance, note, is_broken)


def _named(kind: str) -> tuple[str, ...]:
    return tuple(name for name in OUTPUTS if name.startswith(kind))


def _row(check: Check, width: int) -> str:
    verdict = "BROKEN" if check.is_broken else "report" if check.tolerance is None else "ok"
    deviation = "" if check.deviation is None else f"{check.deviation:.1e}"
    tolerance = "" if check.tolerance is None else f"{check.tolerance:.0e}"
    return f"{verdict:6}  {check.name:{width}}  {deviation:>8}  {tolerance:>6}  {check.note}"
