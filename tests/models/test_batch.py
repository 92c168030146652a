"""Many systems as flat tensors."""

import numpy as np
import pytest
import torch

from tests.systems import crystal, molecule
from twinforce_models.batch import Batch, pack, unpack
from twinforce_proto import System


def test_a_batch_concatenates_its_systems():
    systems = [molecule(3), crystal(8), molecule(1)]
    batch = Batch.from_systems(systems, 5.0)
    assert batch.n_atoms_per_system == (3, 8, 1)
    assert (batch.n_systems, batch.n_atoms) == (3, 12)
    assert batch.system_index.tolist() == [0] * 3 + [1] * 8 + [2]
    assert batch.atomic_numbers.tolist() == [18] * 12
    assert batch.pbc.tolist() == [[False] * 3, [True] * 3, [False] * 3]
    torch.testing.assert_close(batch.cells[1], torch.from_numpy(systems[1].cell.copy()))
    assert sum(batch.n_pairs_per_system) == batch.n_pairs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coordinates_are_float64_and_displacements_have_the_requested_dtype(dtype):
    batch = Batch.from_systems([crystal()], 5.0, dtype)
    assert batch.dtype == batch.displacements().dtype == batch.charge.dtype == dtype
    for name in ("positions", "cells", "shifts"):
        assert getattr(batch, name).dtype == torch.float64
    for name in ("atomic_numbers", "system_index", "pairs", "spin_multiplicity"):
        assert getattr(batch, name).dtype == torch.int64


def test_charge_and_spin_default_to_a_neutral_singlet():
    charged = System([1], np.zeros((1, 3)), charge=-2.0, spin_multiplicity=3)
    batch = Batch.from_systems([charged, molecule()], 5.0)
    assert batch.charge.tolist() == [-2.0, 0.0]
    assert batch.spin_multiplicity.tolist() == [3, 1]


def test_a_batch_shares_no_memory_with_its_systems():
    system = crystal()
    before = system.positions.copy(), system.cell.copy()
    batch = Batch.from_systems([system], 5.0)
    for tensor in (batch.positions, batch.cells, batch.pbc, batch.atomic_numbers):
        tensor.zero_()
    np.testing.assert_array_equal(system.positions, before[0])
    np.testing.assert_array_equal(system.cell, before[1])
    assert system.pbc.all()


def test_wrapped_periodic_positions_are_kept_bit_for_bit():
    system = crystal()
    inside = system.moved(np.mod(system.positions, system.cell[0, 0]))
    batch = Batch.from_systems([inside], 5.0)
    np.testing.assert_array_equal(batch.positions.numpy(), inside.positions)


def test_displacements_point_from_the_center_to_the_neighbor():
    system = System([1, 1], [[0.5, 0, 0], [3.5, 0, 0]], np.eye(3) * 4.0, True)
    batch = Batch.from_systems([system], 1.5)
    assert batch.pairs.tolist() == [[0, 1], [1, 0]]
    torch.testing.assert_close(
        batch.displacements(), torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]], dtype=torch.float64)
    )


@pytest.mark.parametrize("cutoff", [4.5, 9.0], ids=["few pairs", "many pairs"])
def test_displacements_in_a_batch_are_those_of_each_system_alone(cutoff):
    systems = [crystal(8), molecule(3), crystal(7, seed=1)]
    batch = Batch.from_systems(systems, cutoff)
    alone = [Batch.from_systems([system], cutoff).displacements() for system in systems]
    torch.testing.assert_close(batch.displacements(), torch.cat(alone), rtol=0, atol=1e-14)


@pytest.mark.parametrize("cutoff", [4.5, 9.0], ids=["few pairs", "many pairs"])
def test_displacements_are_twice_differentiable_by_positions_and_cells(cutoff):
    systems = [crystal(4), molecule(3)]
    batch = Batch.from_systems(systems, cutoff)

    def lengths(positions, strain):
        return batch.at(positions).strained(strain).displacements().square().sum(dim=1)

    positions = batch.positions.clone().requires_grad_()
    strain = torch.zeros_like(batch.cells, requires_grad=True)
    assert torch.autograd.gradgradcheck(lengths, (positions, strain), fast_mode=True)


def test_strain_deforms_positions_and_cells():
    batch = Batch.from_systems([crystal(), crystal(seed=1)], 5.0)
    strain = torch.zeros_like(batch.cells)
    strain[1, 0, 1] = 0.1
    strained = batch.strained(strain)
    d, moved = batch.displacements(), strained.displacements()
    own = batch.system_index[batch.pairs[0]] == 1
    torch.testing.assert_close(moved[~own], d[~own])
    torch.testing.assert_close(moved[own][:, 1], d[own][:, 1] + 0.1 * d[own][:, 0])


def test_sums_stay_within_their_system():
    batch = Batch.from_systems([molecule(2), molecule(3)], 5.0)
    ones = torch.ones(batch.n_atoms, 2)
    assert batch.sum_over_atoms(ones).tolist() == [[2.0, 2.0], [3.0, 3.0]]
    assert batch.to_atoms(torch.tensor([7.0, 8.0])).tolist() == [7.0] * 2 + [8.0] * 3


def test_volumes_are_positive_for_left_handed_cells_and_zero_without_a_cell():
    left = System([1], np.zeros((1, 3)), np.diag([2.0, 3.0, -4.0]), True)
    assert Batch.from_systems([left, molecule()], 1.0).volumes.tolist() == [24.0, 0.0]


def test_packed_arrays_are_unpacked_unchanged():
    arrays = {
        "a": np.arange(5, dtype=np.int64),
        "b": np.array([[True, False, True]]),
        "c": np.random.default_rng(0).normal(size=(3, 7)).T,
        "d": np.zeros((0, 3), dtype=np.float32),
        "e": np.ones((2, 1, 3), dtype=np.float32),
    }
    arrived = unpack(pack(arrays), arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(arrived[name].numpy(), array)
        assert arrived[name].numpy().dtype == array.dtype
