"""The executable contract passes good potentials and catches each kind of bad one."""

import pytest
import torch

from tests.systems import crystal
from twinforce_models.contract import (
    BrokenContractError,
    ContractReport,
    Tolerances,
    check_potential,
)
from twinforce_models.potential import Exemption, Heads
from twinforce_models.potentials.toys.harmonic import harmonic
from twinforce_models.potentials.toys.lennard_jones import lennard_jones


class Wrapped:
    """Springs whose heads a subclass modifies."""

    elements = (1, 8)
    uses_charge = uses_spin = False
    device = torch.device("cpu")

    def __init__(self, dtype=torch.float64, outputs=None):
        self.springs = harmonic(cutoff=4.0, dtype=dtype)
        self.dtype, self.cutoff = dtype, self.springs.cutoff
        self.outputs = frozenset(outputs or self.springs.outputs)

    def forward_heads(self, batch, *, direct):
        return self.spoil(self.springs.forward_heads(batch, direct=direct), batch)

    def spoil(self, heads, _):
        return heads


def with_energies(heads, atom_energies):
    return Heads(atom_energies, heads.direct_forces, heads.direct_stress)


class LeaksAcrossSystems(Wrapped):
    def spoil(self, heads, _):
        return with_energies(heads, heads.atom_energies - heads.atom_energies.mean())


class IsNotAGradient(Wrapped):
    """Detaches part of its energy from the autograd graph."""

    def spoil(self, heads, _):
        return with_energies(heads, 0.5 * heads.atom_energies + 0.5 * heads.atom_energies.detach())


class DetachesTheCell(Wrapped):
    """Has an energy that depends on the cell outside the autograd graph."""

    def spoil(self, heads, batch):
        extra = batch.to_atoms(batch.volumes.detach() / 1000)
        return with_energies(heads, heads.atom_energies + extra)


class MutatesItsInputs(Wrapped):
    def forward_heads(self, batch, *, direct):
        batch.shifts.mul_(1.0)
        batch.atomic_numbers.add_(1)
        return super().forward_heads(batch, direct=direct)


class ReturnsNaNForAMissingHead(Wrapped):
    def spoil(self, heads, batch):
        return Heads(heads.atom_energies, torch.full_like(batch.positions, torch.nan))


class OmitsADeclaredHead(Wrapped):
    def spoil(self, heads, _):
        return Heads(heads.atom_energies)


class JumpsAtTheCutoff(Wrapped):
    """Adds an energy per neighbor, without a switch at the cutoff."""

    def spoil(self, heads, batch):
        ones = torch.ones_like(batch.shifts[:, 0])
        return with_energies(heads, heads.atom_energies + 1e-3 * batch.sum_over_pairs(ones))


class DependsOnPositions(Wrapped):
    """Adds an external field."""

    def spoil(self, heads, batch):
        return with_energies(heads, heads.atom_energies + 0.1 * torch.sin(batch.positions[:, 0]))


class DependsOnOrder(Wrapped):
    def spoil(self, heads, batch):
        order = torch.cat([torch.arange(n) for n in batch.n_atoms_per_system])
        return with_energies(heads, heads.atom_energies * (1 + order.to(self.dtype)))


class DependsOnDirections(Wrapped):
    """Prefers bonds along z, which violates only the invariance under rotation."""

    def spoil(self, heads, batch):
        d = batch.displacements()
        u = d.square().sum(dim=1)
        weight = (1 - u / self.cutoff**2) ** 3
        return with_energies(
            heads, heads.atom_energies + batch.sum_over_pairs(weight * d[:, 2] ** 2)
        )


class ChangesEnergyWithDirectHeads(Wrapped):
    """Returns another energy if the direct heads are requested too."""

    def forward_heads(self, batch, *, direct):
        heads = super().forward_heads(batch, direct=direct)
        return with_energies(heads, heads.atom_energies * (1.001 if direct else 1.0))


class Raises(Wrapped):
    def spoil(self, *_):
        raise RuntimeError("not today")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("make", [harmonic, lennard_jones])
def test_the_toys_keep_the_contract(make, dtype):
    report = check_potential(make(dtype=dtype))
    report.raise_if_broken()
    assert isinstance(report, ContractReport)
    assert report.passed


def test_a_potential_without_direct_heads_can_keep_the_contract():
    outputs = {"energy", "atom_energies", "conservative_forces", "conservative_stress"}
    check_potential(Wrapped(outputs=outputs)).raise_if_broken()


@pytest.mark.parametrize(
    ("potential", "check"),
    [
        (LeaksAcrossSystems, "same results in a batch and alone"),
        (IsNotAGradient, "conservative forces = -dE/dr"),
        (DetachesTheCell, "conservative stress = dE/dstrain / V"),
        (MutatesItsInputs, "inputs are not changed"),
        (ReturnsNaNForAMissingHead, "declared outputs are present, finite, in shape"),
        (OmitsADeclaredHead, "declared outputs are present, finite, in shape"),
        (JumpsAtTheCutoff, "energy and forces continuous at the cutoff"),
        (DependsOnPositions, "unchanged by translation"),
        (DependsOnPositions, "conservative forces = -dE/dr"),
        (DependsOnOrder, "unchanged by permutation"),
        (ChangesEnergyWithDirectHeads, "same results together and one by one"),
        (Raises, "same results in a batch and alone"),
    ],
)
def test_a_potential_that_breaks_a_rule_is_caught(potential, check):
    report = check_potential(potential())
    assert check in {broken.name for broken in report.broken}
    with pytest.raises(BrokenContractError, match="BROKEN"):
        report.raise_if_broken()


def test_an_energy_that_does_not_rotate_with_the_system_is_reported_and_not_refused():
    report = check_potential(DependsOnDirections())
    (rotation,) = (
        check for check in report.checks if check.name == "energy is invariant under rotation"
    )
    assert rotation.deviation > 1e-3
    assert rotation.tolerance is None
    assert not rotation.is_broken


def test_the_swirl_of_a_toy_shows_as_a_direct_force_that_does_not_rotate():
    checks = {check.name: check for check in check_potential(harmonic()).checks}
    assert checks["direct outputs rotate"].deviation > 1e-3
    assert checks["conservative outputs rotate"].deviation < 1e-9


JUMP = "energy and forces continuous at the cutoff"


class DeclaresItsJump(JumpsAtTheCutoff):
    """Declares how far its energy jumps at the cutoff."""

    def __init__(self, up_to):
        super().__init__()
        self.exemptions = (Exemption(JUMP, up_to, "the filter is a step"),)


class HasNoEnergiesOfAtoms(Wrapped):
    """Returns the energy of a system only."""

    outputs_without = frozenset({"energy", "conservative_forces", "conservative_stress"})

    def __init__(self):
        super().__init__(outputs=self.outputs_without)

    def spoil(self, heads, batch):
        return Heads(energy=batch.sum_over_atoms(heads.atom_energies))


def test_a_declared_exception_is_shown_and_is_no_failure():
    report = check_potential(DeclaresItsJump(up_to=1.0))
    report.raise_if_broken()
    (jump,) = (check for check in report.checks if check.is_exempt)
    assert jump.name == JUMP
    assert jump.deviation > 1e-4
    (row,) = (row for row in str(report).splitlines() if row.startswith("exempt"))
    assert "declared up to 1e+00: the filter is a step" in row


def test_a_deviation_beyond_the_declared_one_is_a_failure():
    report = check_potential(DeclaresItsJump(up_to=1e-6))
    assert [check.name for check in report.broken] == [JUMP]
    assert not any(check.is_exempt for check in report.checks)


def test_a_potential_without_energies_of_atoms_can_keep_the_contract():
    report = check_potential(HasNoEnergiesOfAtoms())
    report.raise_if_broken()
    (adding,) = (check for check in report.checks if check.name.startswith("atom energies add"))
    assert adding.note == "nothing to check"


def test_an_exception_appears_in_the_report():
    report = check_potential(Raises())
    assert "RuntimeError: not today" in str(report)


def test_systems_and_tolerances_can_be_given():
    strict = Tolerances(same=0.0, derivative=0.0, steps=(1e-3,), edge=1e-6)
    report = check_potential(lennard_jones(), [crystal()], tolerances=strict)
    assert {"conservative forces = -dE/dr"} <= {check.name for check in report.broken}


def test_the_report_is_a_table_with_numbers():
    rows = str(check_potential(harmonic())).splitlines()
    assert len(rows) == 15
    assert all(row.startswith(("ok ", "report ")) for row in rows)
    assert sum("e-" in row for row in rows) > 10
