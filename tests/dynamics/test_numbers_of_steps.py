"""Tests of what counts as a number of inner steps."""

import numpy as np
import pytest
from ase import Atoms

from twinforce import Integrator, InvalidRequestError
from twinforce.ase import MultipleTimeStepping
from twinforce.lammps.forces import ForceScheme

WRONG = [0, -4, 2.5, 4.0, float("inf"), float("nan"), None, True, "4"]

PLACES = {
    "client": lambda number: Integrator(force_kind="hybrid", inner_steps=number),
    "ase": lambda number: MultipleTimeStepping(Atoms("Ar"), 1.0, inner_steps=number),
    "lammps": lambda number: ForceScheme("hybrid", number, has_virial=False),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", WRONG, ids=repr)
def test_other_than_whole_numbers_from_1_on_are_refused(place, number):
    expected = "inner_steps: expected a whole number, at least 1, got"
    with pytest.raises((ValueError, InvalidRequestError), match=expected):
        PLACES[place](number)


def test_whole_numbers_of_numpy_are_accepted():
    assert Integrator(force_kind="hybrid", inner_steps=np.int64(4)).stride == 4
