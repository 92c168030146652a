"""The contract that every potential must fulfill, as a function for model authors.

For example:

    report = check_potential(MyPotential(dtype=torch.float64))
    print(report)
    report.raise_if_broken()
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from twinforce_models.contract import checks
from twinforce_models.contract.checks import ContractCase, Finding, Tolerances
from twinforce_models.contract.systems import default_systems
from twinforce_models.potential import Exemption, Potential
from twinforce_proto import OUTPUTS, System


class BrokenContractError(AssertionError):
    """A potential violates the contract of potentials."""


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: The rule that is checked.
        deviation: Largest deviation from the rule; None if there was nothing to measure.
        tolerance: Largest accepted deviation; None for a check that is only reported.
        note: Place of the largest deviation, or the error that occurred.
        is_broken: True if the potential fails the check.
        is_exempt: True if it fails the check no worse than it declares, see `Exemption`.
    """

    name: str
    deviation: float | None
    tolerance: float | None
    note: str
    is_broken: bool
    is_exempt: bool = False


@dataclass(frozen=True, slots=True)
class ContractReport:
    """The outcomes of all checks; `str` formats them as a table."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """True if no check failed."""
        return not self.broken

    @property
    def broken(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.is_broken)

    def raise_if_broken(self) -> None:
        """Raise `BrokenContractError` with the whole table unless every check passed."""
        if not self.passed:
            raise BrokenContractError(f"the potential violates the contract\n{self}")

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
    """Check the contract that every potential must fulfill, with a few hundred evaluations.

    Args:
        potential: In float64 if possible: derivatives are then checked tightly.
        systems: Systems to test on. None uses five small ones made of the potential's elements,
            with every kind of boundary condition.
        tolerances: None uses those of the potential's dtype.
        seed: Seed of the random displacements.
    """
    case = ContractCase(
        potential,
        default_systems(potential.elements, potential.cutoff) if systems is None else systems,
        tolerances or Tolerances.of(potential.dtype),
        np.random.default_rng(seed),
    )
    same, derivative = case.tolerances.same, case.tolerances.derivative
    planned: list[tuple[str, float | None, Callable[[ContractCase], Iterator[Finding]]]] = [
        ("declared outputs are present, finite, in shape", 0.0, checks.outputs_are_complete),
        ("undeclared outputs raise an error", 0.0, checks.absent_outputs_are_refused),
        ("inputs are not changed", 0.0, checks.inputs_are_unchanged),
        ("atom energies add up to the energy", same, checks.atom_energies_add_up),
        ("same results in a batch and alone", same, checks.batched_as_alone),
        ("same results together and one by one", same, checks.together_as_one_by_one),
        ("unchanged by translation", same, checks.unchanged_by_translation),
        ("unchanged by permutation", same, checks.unchanged_by_permutation),
        ("unchanged by lattice vectors (unwrapped atoms)", same, checks.unchanged_by_whole_cells),
        ("energy and forces continuous at the cutoff", same, checks.continuous_at_cutoff),
        ("conservative forces = -dE/dr", derivative, checks.forces_are_gradient),
        ("conservative stress = dE/dstrain / V", derivative, checks.stress_is_gradient),
        ("energy is invariant under rotation", None, checks.rotates("energy", "atom_energies")),
        ("conservative outputs rotate", None, checks.rotates(*_named("conservative"))),
        ("direct outputs rotate", None, checks.rotates(*_named("direct"))),
    ]
    found = [_run(case, *check) for check in planned]
    exemptions = {each.check: each for each in getattr(potential, "exemptions", ())}
    return ContractReport(tuple(_exempted(check, exemptions.get(check.name)) for check in found))


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
    # NaN compares false with everything: it must count as the largest deviation, and as broken.
    deviation, note = max(found, key=lambda f: np.inf if np.isnan(f[0]) else f[0])
    is_broken = tolerance is not None and not deviation <= tolerance
    return Check(name, deviation, tolerance, note, is_broken)


def _exempted(check: Check, exemption: Exemption | None) -> Check:
    """Return the check as not broken if its deviation is a declared one."""
    if exemption is None or not check.is_broken or check.deviation is None:
        return check
    if not check.deviation <= exemption.up_to:
        return check
    note = f"{check.note}; declared up to {exemption.up_to:.0e}: {exemption.reason}"
    return replace(check, note=note, is_broken=False, is_exempt=True)


def _named(kind: str) -> tuple[str, ...]:
    return tuple(name for name in OUTPUTS if name.startswith(kind))


def _row(check: Check, width: int) -> str:
    passed = "exempt" if check.is_exempt else "report" if check.tolerance is None else "ok"
    verdict = "BROKEN" if check.is_broken else passed
    deviation = "" if check.deviation is None else f"{check.deviation:.1e}"
    tolerance = "" if check.tolerance is None else f"{check.tolerance:.0e}"
    return f"{verdict:6}  {check.name:{width}}  {deviation:>8}  {tolerance:>6}  {check.note}"
