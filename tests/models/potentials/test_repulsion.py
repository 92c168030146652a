"""Atoms that come closer than in any training data repel each other, with either kind of forces."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk

from tests.models.potentials.test_compilation import TINY, assert_same, fused_in_python, net
from tests.models.potentials.test_hybrid_net import water
from twinforce_models import registry
from twinforce_models.contract.contract import check_potential
from twinforce_models.potentials.hybrid_net.core import HybridCore, Hyperparameters
from twinforce_models.potentials.hybrid_net.potential import HybridNet
from twinforce_models.prediction import predict
from twinforce_proto import OUTPUTS, System

FORCES = ("energy", "conservative_forces", "direct_forces")
RADII = (0.3, 0.6)  # of H and O
REPELLING = replace(TINY, repulsion_radii=RADII)


def repulsion_alone(hyperparameters=REPELLING, dtype=torch.float64):
    """Return a potential whose network says nothing."""
    potential = net(hyperparameters=hyperparameters)
    core = potential.core
    core.energy_scale.fill_(0.0)
    core.force_scale.fill_(0.0)
    return HybridNet(core.to(dtype), torch.zeros(2))


def pair(z1, z2, distance):
    return System([z1, z2], [[0.0, 0.0, 0.0], [0.0, 0.6 * distance, 0.8 * distance]])


def screened_coulomb(z1, z2, r, end):
    """Return the energy of a pair, written anew from the definition, in eV."""
    length = 0.8854 * 0.529177210903 / (z1**0.23 + z2**0.23)
    x, u = r / length, r / end
    screening = (
        0.18175 * math.exp(-3.1998 * x)
        + 0.50986 * math.exp(-0.94229 * x)
        + 0.28022 * math.exp(-0.4029 * x)
        + 0.02817 * math.exp(-0.20162 * x)
    )
    return 14.399645478 * z1 * z2 / r * screening * (1 - 28 * u**6 + 48 * u**7 - 21 * u**8)


@pytest.mark.parametrize(("z1", "z2", "end"), [(1, 1, 0.6), (1, 8, 0.9), (8, 8, 1.2)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_pair_has_the_screened_coulomb_energy_and_its_gradient(z1, z2, end, share):
    r, step = share * end, 1e-5
    (found,) = predict(repulsion_alone(), [pair(z1, z2, r)], FORCES)
    energies = [screened_coulomb(z1, z2, r + sign * step, end) for sign in (-1, 1)]
    force = -(energies[1] - energies[0]) / (2 * step)
    assert found.energy == pytest.approx(screened_coulomb(z1, z2, r, end), rel=1e-7)
    expected = np.array([[0.0, -0.6, -0.8], [0.0, 0.6, 0.8]]) * force
    for forces in (found.conservative_forces, found.direct_forces):
        np.testing.assert_allclose(forces, expected, rtol=1e-6)


def test_both_kinds_of_forces_and_stresses_contain_the_same_repulsion():
    (found,) = predict(repulsion_alone(), [water(n_molecules=27, length=4.0)], OUTPUTS)
    assert abs(found.direct_forces).max() > 10.0
    np.testing.assert_allclose(found.direct_forces, found.conservative_forces, atol=1e-9)
    np.testing.assert_allclose(found.direct_stress, found.conservative_stress, atol=1e-9)


def test_nothing_changes_where_all_atoms_are_farther_apart():
    plain, repelling = net(), net(hyperparameters=REPELLING)
    systems = [pair(8, 8, 1.201), pair(1, 8, 0.901), pair(1, 1, 0.601)]
    for system in systems:
        (one,), (other,) = predict(plain, [system], FORCES), predict(repelling, [system], FORCES)
        assert one.energy == other.energy
        np.testing.assert_array_equal(one.direct_forces, other.direct_forces)
        np.testing.assert_allclose(
            one.conservative_forces, other.conservative_forces, rtol=0, atol=1e-14
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("distance", [0.05, 0.3, 0.6])
def test_atoms_of_water_on_top_of_each_other_are_pushed_apart(distance, dtype):
    potential = registry.load("water", dtype=dtype).potential
    for z in potential.elements:
        (found,) = predict(potential, [pair(z, z, distance)], FORCES)
        for forces in (found.conservative_forces, found.direct_forces):
            assert np.isfinite(forces).all()
            assert forces[1] @ [0.0, 0.6, 0.8] > 1.0


@pytest.mark.parametrize("distance", [0.05, 0.5])
def test_an_atom_on_top_of_another_in_a_crystal_is_pushed_away(distance):
    potential = registry.load("elements6", dtype=torch.float32).potential
    for symbol, lattice, a in (("Li", "bcc", 3.44), ("Cu", "fcc", 3.62), ("Si", "diamond", 5.47)):
        atoms = bulk(symbol, lattice, a=a, cubic=True) * (2, 2, 2)
        apart = atoms.get_distances(0, range(1, len(atoms)), mic=True, vector=True)
        nearest = min(apart, key=np.linalg.norm)
        away = -nearest / np.linalg.norm(nearest)
        atoms.positions[0] += nearest + distance * away
        system = System(atoms.numbers, atoms.positions, atoms.cell.array, pbc=True)
        (found,) = predict(potential, [system], FORCES)
        for forces in (found.conservative_forces, found.direct_forces):
            assert np.isfinite(forces).all()
            assert forces[0] @ away > 100.0


def test_it_keeps_the_contract():
    check_potential(net(hyperparameters=REPELLING)).raise_if_broken()


def test_the_form_for_compilers_has_the_same_values_and_derivatives():
    touching = replace(TINY, repulsion_radii=(0.8, 1.1))  # beyond the bonds of the test systems
    plain = net(hyperparameters=touching)
    assert_same(fused_in_python(plain), plain, 1e-12)


def test_there_must_be_a_radius_for_each_element():
    with pytest.raises(
        ValueError, match=r"repulsion_radii: expected a positive radius for each of 2"
    ):
        HybridCore(Hyperparameters(elements=(1, 8), repulsion_radii=(0.3,)))
