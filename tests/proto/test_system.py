import pickle

import numpy as np
import pytest

from twinforce_proto import InvalidSystemError, Prediction, System
from twinforce_proto.errors import clipped

WATER = {
    "atomic_numbers": [8, 1, 1],
    "positions": [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]],
    "cell": [[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]],
    "pbc": True,
}


def water(**changes):
    return System(**WATER | changes)


def message(**changes):
    """Return the message of the error that a system with these changes raises."""
    with pytest.raises(InvalidSystemError) as raised:
        water(**changes)
    (field,) = changes.keys() - {"pbc"} or {"pbc"}
    assert raised.value.field == field
    assert str(raised.value).startswith(f"{field}: expected ")
    return str(raised.value)


def test_lists_become_arrays_of_the_right_type():
    system = water()
    assert system.atomic_numbers.dtype == np.int32
    assert system.positions.dtype == np.float64
    assert system.cell.dtype == np.float64
    np.testing.assert_array_equal(system.pbc, [True, True, True])
    assert len(system) == 3


def test_a_system_without_cell_and_pbc_is_open():
    system = System([8], [[0, 0, 0]])
    np.testing.assert_array_equal(system.cell, np.zeros((3, 3)))
    np.testing.assert_array_equal(system.pbc, [False] * 3)


def test_arrays_of_the_right_type_are_not_copied_and_stay_writable_for_the_caller():
    numbers, positions = np.array([8, 1, 1], dtype=np.int32), np.array(WATER["positions"])
    system = water(atomic_numbers=numbers, positions=positions)
    assert np.shares_memory(system.atomic_numbers, numbers)
    assert np.shares_memory(system.positions, positions)
    assert numbers.flags.writeable
    assert positions.flags.writeable


@pytest.mark.parametrize("field", ["atomic_numbers", "positions", "cell", "pbc"])
def test_arrays_of_a_system_are_read_only(field):
    with pytest.raises(ValueError, match="read-only"):
        getattr(water(), field)[0] = 0


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_contiguous_for_any_memory_order(order):
    positions = np.asarray(WATER["positions"], dtype=np.float32, order=order)
    system = water(positions=positions[::-1])
    assert system.positions.flags.c_contiguous
    np.testing.assert_array_equal(system.positions, positions[::-1])


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([], "at least one atom, got none"),
        (np.zeros(0), "at least one atom, got none"),
        (8, r"shape [n_atoms], got shape []"),
        ([[8, 1, 1]], "shape [n_atoms], got shape [1, 3]"),
        ([8, 0, 1], "whole numbers from 1 to 118, got 0 at [1]"),
        ([8, 1, 119], "whole numbers from 1 to 118, got 119 at [2]"),
        ([8, -1, 1], "got -1 at [1]"),
        ([8, 1.5, 1], "got 1.5 at [1]"),
        ([8, np.nan, 1], "got nan at [1]"),
        (["O", "H", "H"], "whole numbers from 1 to 118, shape [n_atoms], got <U1 values"),
        ([True, True, True], "got bool values"),
        ([8, [1], 1], "got rows of different lengths"),
        ([2**70, 1, 1], "got object values"),
    ],
)
def test_wrong_atomic_numbers_are_refused(value, problem):
    assert problem in message(atomic_numbers=value)


def test_whole_atomic_numbers_may_come_as_floats():
    np.testing.assert_array_equal(water(atomic_numbers=[8.0, 1.0, 1.0]).atomic_numbers, [8, 1, 1])


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (np.zeros((4, 3)), "shape [3, 3], got shape [4, 3]"),
        (np.zeros((3, 2)), "shape [3, 3], got shape [3, 2]"),
        (np.zeros(9), "shape [3, 3], got shape [9]"),
        ([[0, 0, 0], [0, 0, np.nan], [0, 0, 0]], "finite numbers within ±1000000 Å, got nan at"),
        ([[0, 0, 0], [0, 0, np.inf], [0, 0, 0]], "got inf at [1, 2]"),
        ([[0, 0, 0], [0, 0, 2e6], [0, 0, 0]], "got 2000000.0 at [1, 2]"),
        ([[0, 0, 0], [0, 0], [0, 0, 0]], "numbers of shape [3, 3], got rows of different lengths"),
        (np.zeros((3, 3), dtype=complex), "got complex128 values"),
        (None, "got object values"),
    ],
)
def test_wrong_positions_are_refused(value, problem):
    assert problem in message(positions=value)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (np.zeros((3, 2)), "shape [3, 3], got shape [3, 2]"),
        ([9.0, 9.0, 9.0], "shape [3, 3], got shape [3]"),
        (np.full((3, 3), np.nan), "got nan at [0, 0]"),
        (None, "a vector along each periodic direction of pbc [True, True, True], got no cell"),
        (np.diag([9.0, 0.0, 9.0]), "got zero along direction 1"),
        (np.ones((3, 3)), "linearly independent vectors along periodic directions, got [[1.0"),
        ([[1, 0, 0], [0, 1, 0], [1, 1, 1e-9]], "linearly independent vectors"),
    ],
)
def test_wrong_cells_are_refused(value, problem):
    assert problem in message(cell=value)


def test_two_parallel_vectors_are_refused_only_where_both_are_periodic():
    cell = [[5, 0, 0], [10, 0, 0], [0, 0, 7]]
    assert "linearly independent" in message(cell=cell, pbc=[True, True, False])
    assert water(cell=cell, pbc=[True, False, True])
    assert water(cell=cell, pbc=False)


@pytest.mark.parametrize(
    "cell",
    [
        np.diag([9.0, 9.0, -9.0]),
        [[9, 0, 0], [8.9, 0.9, 0], [8.9, 0.4, 0.8]],
        np.diag([0.5, 0.5, 0.5]),
    ],
    ids=["left-handed", "skewed", "small"],
)
def test_unusual_cells_are_kept_as_they_are(cell):
    np.testing.assert_array_equal(water(cell=cell).cell, cell)


def test_a_molecule_may_have_a_cell():
    np.testing.assert_array_equal(water(pbc=False).cell, WATER["cell"])


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([True, False], "three bools, or one, got shape [2]"),
        ([1, 0, 2], "got 2 at [2]"),
        ("xyz", "got <U3 values"),
    ],
)
def test_wrong_pbc_are_refused(value, problem):
    assert problem in message(pbc=value)


@pytest.mark.parametrize("value", [np.nan, np.inf, "one", True, [1.0], 10**400])
def test_wrong_charges_are_refused(value):
    assert f"a finite number, got {clipped(repr(value))}" in message(charge=value)


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, 2**31])
def test_wrong_spin_multiplicities_are_refused(value):
    problem = f"a whole number from 1 to 2147483647, got {value!r}"
    assert problem in message(spin_multiplicity=value)


def test_charge_and_spin_become_plain_numbers():
    system = water(charge=np.float32(-1), spin_multiplicity=np.int64(2))
    assert (type(system.charge), system.charge) == (float, -1.0)
    assert (type(system.spin_multiplicity), system.spin_multiplicity) == (int, 2)


def test_a_moved_system_shares_its_unchanged_attributes():
    system = water(charge=1, spin_multiplicity=2)
    moved = system.moved(system.positions + 1)
    np.testing.assert_array_equal(moved.positions, np.array(WATER["positions"]) + 1)
    assert moved.atomic_numbers is system.atomic_numbers
    assert moved.cell is system.cell
    assert moved.pbc is system.pbc
    assert (moved.charge, moved.spin_multiplicity) == (1.0, 2)


def test_a_moved_system_may_have_another_cell():
    moved = water().moved(WATER["positions"], np.diag([8.0, 8.0, 8.0]))
    np.testing.assert_array_equal(moved.cell, np.diag([8.0, 8.0, 8.0]))


def test_new_coordinates_of_a_moved_system_are_validated():
    with pytest.raises(InvalidSystemError, match=r"positions: expected shape \[3, 3\]"):
        water().moved(np.zeros((2, 3)))
    with pytest.raises(InvalidSystemError, match="cell: expected linearly independent"):
        water().moved(WATER["positions"], np.ones((3, 3)))


def test_a_system_is_immutable():
    with pytest.raises(AttributeError):
        water().charge = 1.0


def test_a_system_survives_pickling():
    system = pickle.loads(pickle.dumps(water(charge=1)))
    np.testing.assert_array_equal(system.positions, WATER["positions"])
    assert system.charge == 1.0


def test_a_prediction_has_only_the_given_outputs():
    prediction = Prediction(energy=-1.0)
    assert prediction.energy == -1.0
    assert prediction.direct_forces is None
    assert prediction.conservative_stress is None
