"""The toys: smooth, with exact conservative forces and a known error of the direct forces."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones

from tests.systems import crystal, molecule
from twinforce_models.batch import Batch
from twinforce_models.contract.contract import check_potential
from twinforce_models.nonconservativity import direct_jacobian, nonconservativity
from twinforce_models.potentials.toys.harmonic import harmonic
from twinforce_models.potentials.toys.ideal_gas import ideal_gas
from twinforce_models.potentials.toys.lennard_jones import lennard_jones
from twinforce_models.prediction import predict
from twinforce_proto import OUTPUTS, System

TOYS = pytest.mark.parametrize("make", [harmonic, lennard_jones])


def test_an_ideal_gas_keeps_the_contract_and_has_no_forces():
    potential = ideal_gas()
    check_potential(potential).raise_if_broken()
    system = crystal(8)
    (prediction,) = predict(potential, [system], OUTPUTS)
    assert prediction.energy == pytest.approx(-0.01 * system.atomic_numbers.sum())
    for name in OUTPUTS[2:]:
        assert not getattr(prediction, name).any()
    assert not direct_jacobian(potential, system).any()


def slab():
    system = crystal(8)
    return System(system.atomic_numbers, system.positions, system.cell, [True, True, False])


@TOYS
@pytest.mark.parametrize("system", [crystal(8), molecule(5), slab()], ids=["bulk", "open", "slab"])
def test_the_closed_form_jacobian_matches_autograd(make, system):
    potential = make()
    by_autograd = direct_jacobian(potential, system)
    np.testing.assert_allclose(potential.direct_jacobian(system), by_autograd, atol=1e-12)
    lambda_ = potential.exact_lambda(system)
    assert lambda_ == pytest.approx(nonconservativity(by_autograd), rel=1e-12)
    assert 1e-3 < lambda_ < 0.5


@TOYS
def test_the_closed_form_jacobian_matches_finite_differences(make):
    system, potential, h = crystal(4), make(), 1e-5
    columns = []
    for k in range(3 * len(system)):
        step = np.zeros(3 * len(system))
        step[k] = h
        ends = [system.moved(system.positions + s * step.reshape(-1, 3)) for s in (1, -1)]
        plus, minus = predict(potential, ends, ["direct_forces"])
        columns.append((plus.direct_forces - minus.direct_forces).ravel() / (2 * h))
    expected = np.stack(columns, axis=1)
    np.testing.assert_allclose(potential.direct_jacobian(system), expected, atol=1e-7)


@TOYS
def test_without_swirl_direct_forces_and_stress_are_the_conservative_ones(make):
    system, potential = crystal(8), make(swirl=0.0)
    outputs = ["conservative_forces", "direct_forces", "conservative_stress", "direct_stress"]
    (prediction,) = predict(potential, [system], outputs)
    np.testing.assert_allclose(prediction.direct_forces, prediction.conservative_forces, atol=1e-13)
    np.testing.assert_allclose(prediction.direct_stress, prediction.conservative_stress, atol=1e-14)
    assert potential.exact_lambda(system) == pytest.approx(0.0, abs=1e-15)


@TOYS
def test_lambda_increases_with_the_swirl(make):
    lambdas = [make(swirl=swirl).exact_lambda(crystal(8)) for swirl in (0.0, 0.01, 0.1, 10.0)]
    assert lambdas == sorted(lambdas)
    assert lambdas[-1] > 0.3


@TOYS
def test_the_direct_force_head_returns_no_net_force(make):
    batch = Batch.from_systems([crystal(8)], make().cutoff)
    heads = make().forward_heads(batch, direct=True)
    assert heads.direct_forces.sum(dim=0).abs().max() < 1e-13


@TOYS
def test_the_swirl_changes_the_direct_stress(make):
    outputs = ["conservative_stress", "direct_stress"]
    (prediction,) = predict(make(), [crystal(8)], outputs)
    assert not np.allclose(
        prediction.direct_stress, prediction.conservative_stress, rtol=1e-6, atol=1e-9
    )
    np.testing.assert_allclose(prediction.direct_stress, prediction.direct_stress.T, atol=1e-15)


def test_lennard_jones_matches_ase_far_inside_a_long_cutoff():
    positions = np.array([[0, 0, 0], [3.7, 0, 0], [0.2, 3.9, 0.4]])
    (prediction,) = predict(
        lennard_jones(epsilon=0.01, sigma=3.4, cutoff=4000.0),
        [System([18] * 3, positions)],
        ["energy", "conservative_forces"],
    )
    atoms = Atoms("Ar3", positions)
    atoms.calc = LennardJones(epsilon=0.01, sigma=3.4, rc=1e6)
    assert prediction.energy == pytest.approx(atoms.get_potential_energy(), rel=1e-5)
    np.testing.assert_allclose(prediction.conservative_forces, atoms.get_forces(), rtol=1e-4)


def test_a_spring_is_harmonic_about_its_length():
    def energy(r):
        pair = System([1, 1], [[0, 0, 0], [0, 0, r]])
        return predict(harmonic(stiffness=2.0, cutoff=500.0), [pair], ["energy"])[0].energy

    assert energy(1.5) == pytest.approx(0.0, abs=1e-12)
    assert energy(1.501) == pytest.approx(2.0 / 2 * 0.001**2, rel=1e-2)


def test_springs_are_finite_for_atoms_on_top_of_each_other():
    (prediction,) = predict(
        harmonic(), [System([1, 1], np.zeros((2, 3)))], ["energy", "conservative_forces"]
    )
    assert np.isfinite(prediction.energy)
    np.testing.assert_array_equal(prediction.conservative_forces, np.zeros((2, 3)))


@TOYS
def test_toys_can_compute_in_float32(make):
    exact, rough = (make(dtype=dtype) for dtype in (torch.float64, torch.float32))
    outputs = ["energy", "conservative_forces", "direct_forces"]
    (a,), (b,) = (predict(potential, [crystal(8)], outputs) for potential in (exact, rough))
    assert a.energy == pytest.approx(b.energy, rel=1e-5)
    np.testing.assert_allclose(a.direct_forces, b.direct_forces, atol=1e-5)
    assert not np.array_equal(a.direct_forces, b.direct_forces)
