"""Tests of admission: it skips checks for walkers that hardly move, and only for those."""

import numpy as np
import pytest

from tests.potentials import ARGON, Soft, loaded
from twinforce_models.neighbors.estimate import estimate_pairs
from twinforce_proto import (
    System,
    SystemTooLargeError,
    UnknownModelError,
    UnsupportedElementError,
    UnsupportedOutputError,
)
from twinforce_service.scheduling.admission import Admission
from twinforce_service.scheduling.request import Request, Walker

ENERGY = frozenset({"energy"})
INFO = loaded(Soft(), "soft").info
N_ATOMS, MAX_PAIRS = 200, 2000


def spread():
    """Return atoms that are farther apart than the cutoff."""
    grid = np.stack(np.meshgrid(*[np.arange(6.0)] * 3), axis=-1).reshape(-1, 3)[:N_ATOMS]
    return System([ARGON] * N_ATOMS, 4 * INFO.cutoff * grid)


def compressed(system):
    return system.moved(0.01 * system.positions)


@pytest.fixture
def admission():
    return Admission({"soft": INFO}, MAX_PAIRS)


def request(system, walker, outputs=ENERGY, model="soft"):
    return Request(model, system, outputs, walker=walker)


def test_a_walker_that_jumps_into_a_dense_region_is_refused_at_any_step(admission):
    system, walker = spread(), Walker()
    for n_steps in range(4):
        admission.admit([request(system.moved(system.positions + 0.01 * n_steps), walker)])
    with pytest.raises(SystemTooLargeError, match="neighbor pairs"):
        admission.admit([request(compressed(system), walker)])
    admission.admit([request(system, walker)])


def test_a_walker_that_slowly_becomes_too_dense_is_refused(admission):
    system, walker = spread(), Walker()

    def compress_slowly():
        for scale in np.linspace(1.0, 0.01, 2000):
            admission.admit([request(system.moved(scale * system.positions), walker)])

    with pytest.raises(SystemTooLargeError):
        compress_slowly()


def test_pairs_are_counted_again_after_an_atom_has_moved_far():
    system, walker = spread(), Walker()
    system = system.moved(0.05 * system.positions)
    admission = Admission({"soft": INFO}, 10**9)
    farthest = np.abs(system.positions).max()
    before = estimate_pairs(system, INFO.cutoff)
    for far in (0.0, 0.2, 0.3):
        asked = request(system.moved(system.positions * (1.0 + far / farthest)), walker)
        admission.admit([asked])
        now = estimate_pairs(asked.system, INFO.cutoff)
        assert asked.n_pairs == (before if far < 0.25 else now)
    assert now < before


def test_a_change_of_model_outputs_or_elements_is_checked(admission):
    system, walker = spread(), Walker()
    admission.admit([request(system, walker)])
    with pytest.raises(UnknownModelError):
        admission.admit([request(system, walker, model="ice")])
    with pytest.raises(UnsupportedOutputError):
        admission.admit([request(system, walker, frozenset({"conservative_stress"}))])
    other = System([6] * N_ATOMS, system.positions)
    with pytest.raises(UnsupportedElementError):
        admission.admit([request(other, walker)])
