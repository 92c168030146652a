"""Tests of rounds of sampling: labels are the teacher's, and an interruption loses little."""

import numpy as np
import pytest

from tests.clients.serving import serve
from twinforce import Client
from twinforce.assess import Progress
from twinforce.assess.budget import EXPIRED, NEVER
from twinforce.distill import DistillSettings
from twinforce.distill.joined import JoinedClient, ServedModel
from twinforce.distill.sampling.sampling_round import SamplingRound, initial_atoms
from twinforce.distill.sampling.walkers import LabeledWalker, Walk

QUIET = Progress(is_shown=False)


@pytest.fixture
def settings():
    return DistillSettings(teacher="lj", temperatures_k=(40.0,), time_step_fs=2.0, seed=5)


def sampling_of(directory, argon, settings, number, earlier=None):
    return SamplingRound(directory, [argon], settings, number, earlier)


@pytest.mark.parametrize("number", [0, 1])
def test_each_label_is_the_prediction_of_the_teacher(model, argon, settings, tmp_path, number):
    sampling = sampling_of(tmp_path, argon, settings, number)
    joined = JoinedClient(model, model if number else None, has_stress=True)
    sampling.run(joined, 16, NEVER, QUIET)
    assert 32 <= sampling.n_labels < 40
    for trajectory in sampling.trajectories():
        labels = trajectory.labels
        assert trajectory.note == ""
        assert np.isfinite(labels.disagreements).all() == (number > 0)
        atoms = initial_atoms(trajectory.walk, [argon])
        atoms.positions[:] = labels.positions[-1]
        expected = model.client.predict(atoms, "conservative_forces", "lj")
        stress = model.client.predict(atoms, "conservative_stress", "lj").conservative_stress
        np.testing.assert_allclose(labels.forces[-1], expected.conservative_forces, atol=1e-9)
        np.testing.assert_allclose(labels.stresses[-1][:3], np.diag(stress), atol=1e-9)


def test_the_walker_that_tests_makes_a_quarter_of_the_labels(model, argon, settings, tmp_path):
    sampling = sampling_of(tmp_path, argon, settings, 0)
    sampling.run(JoinedClient(model, None), 20, NEVER, QUIET)
    *training, test = sampling.trajectories()
    assert test.walk.is_test
    assert len(test.labels) == 5
    assert {len(each.labels) for each in training} == {20}


def test_a_round_goes_on_where_it_was_interrupted(model, argon, settings, tmp_path):
    joined = JoinedClient(model, None)
    sampling_of(tmp_path, argon, settings, 0).run(joined, 20, EXPIRED, QUIET)
    before = sampling_of(tmp_path, argon, settings, 0).trajectories()
    again = sampling_of(tmp_path, argon, settings, 0)
    again.run(joined, 20, NEVER, QUIET)
    for old, new in zip(before, again.trajectories(), strict=True):
        n_old = len(old.labels)
        assert 0 < n_old < len(new.labels)
        np.testing.assert_array_equal(old.labels.positions, new.labels.positions[:n_old])
        # The next step starts from the last label, in a segment of its own.
        assert new.labels.segments[n_old] > new.labels.segments[n_old - 1]
        moved = new.labels.positions[n_old] - new.labels.positions[n_old - 1]
        assert 0.0 < np.abs(moved).max() < 0.1


def test_few_labels_are_made_even_if_the_time_is_over(model, argon, settings, tmp_path):
    sampling = sampling_of(tmp_path, argon, settings, 0)
    sampling.run(JoinedClient(model, None), 1000, EXPIRED, QUIET)
    assert sampling.n_labels == 32


def test_walkers_go_on_in_the_next_round(model, argon, settings, tmp_path):
    first = sampling_of(tmp_path / "0", argon, settings, 0)
    first.run(JoinedClient(model, None), 16, NEVER, QUIET)
    first.save_walkers(tmp_path / "walkers.npz", None)
    second = sampling_of(tmp_path / "1", argon, settings, 1, tmp_path / "walkers.npz")
    for trajectory in first.trajectories():
        np.testing.assert_array_equal(
            second.atoms_of(trajectory.walk).positions, trajectory.labels.positions[-1]
        )


def test_the_cell_is_strained_where_it_is_periodic(argon):
    argon.pbc = (True, True, False)
    strained = initial_atoms(Walk(0, 1.05, 40.0), [argon])
    ratio = strained.cell.lengths() / argon.cell.lengths()
    np.testing.assert_allclose(ratio, [1.05, 1.05, 1.0])
    np.testing.assert_allclose(
        strained.get_scaled_positions(wrap=False), argon.get_scaled_positions(wrap=False)
    )


def test_a_student_that_cannot_drive_is_replaced_by_the_teacher(model, argon):
    # Springs between all atoms have nothing to do with the forces between argon atoms.
    with serve(model={"springs": "toy:harmonic"}) as server, Client(server.grpc_url) as client:
        springs = ServedModel(client, client.model("springs"))
        walker = LabeledWalker(
            Walk(0, 1.0, 40.0),
            argon,
            time_step_fs=2.0,
            inner_steps=8,
            rng=np.random.default_rng(0),
        )
        walker.begin(JoinedClient(model, springs))
        for _ in range(3):
            walker.advance()
        labels = walker.take_labels()
        walker.end()
    assert walker.note == ""
    assert labels.segments.tolist() == [0, 1, 1]
    # The frame on which both disagree is the one to learn from.
    assert np.isfinite(labels.disagreements).tolist() == [True, False, False]
    assert labels.temperatures_k[-1] < 120.0


def test_a_walker_that_explodes_on_the_forces_of_the_teacher_ends(model, argon):
    argon.positions[0] += 0.7 * (argon.positions[1] - argon.positions[0])
    walker = LabeledWalker(
        Walk(0, 1.0, 40.0), argon, time_step_fs=4.0, inner_steps=1, rng=np.random.default_rng(0)
    )
    walker.begin(JoinedClient(model, None))
    while not walker.note:
        walker.advance()
    walker.end()
    assert "ended: " in walker.note
    assert walker.state()["note"] == walker.note
