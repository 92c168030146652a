"""Tests of the choice of labeled systems, of twins, and of what training reads."""

import ase.io
import numpy as np
import pytest
from ase import Atoms

from twinforce.distill.sampling.labels import (
    LabeledGroup,
    Labels,
    read_labels,
    write_examples,
    write_labels,
)
from twinforce.distill.sampling.selection import select_groups

ATOMS = Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]], cell=[9, 9, 9], pbc=True)


def labels_of(n, *, step_fs=4.0, differences=None, segments=None):
    """Labels along a line: the second atom moves by 0.01 Å per label."""
    positions = np.repeat(ATOMS.positions[None], n, axis=0)
    positions[:, 1, 2] += 0.01 * np.arange(n)
    rng = np.random.default_rng(n)
    return Labels(
        positions=positions,
        energies=-0.5 * np.arange(n),
        forces=rng.normal(size=(n, 2, 3)),
        stresses=rng.normal(size=(n, 6)),
        disagreements=np.full(n, np.nan) if differences is None else np.array(differences),
        temperatures_k=np.full(n, 40.0),
        segments=np.zeros(n, dtype=np.int64) if segments is None else np.array(segments),
        steps_fs=np.full(n, step_fs),
    )


def groups_of(labels):
    return [LabeledGroup(labels, members, ATOMS, 40.0) for members in labels.groups()]


def test_neighbors_are_twins_if_they_are_4_fs_apart():
    assert labels_of(6).groups() == [(0, 1), (2, 3), (4, 5)]


def test_twins_of_shorter_steps_are_as_far_apart():
    assert labels_of(8, step_fs=1.0).groups() == [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert labels_of(8, step_fs=2.0).groups() == [(0, 2), (1, 3), (4, 6), (5, 7)]


def test_a_label_without_a_partner_stays_alone():
    assert labels_of(3).groups() == [(0, 1), (2,)]
    assert labels_of(5, step_fs=2.0).groups() == [(0, 2), (1, 3), (4,)]


def test_twins_never_span_an_interruption():
    assert labels_of(5, segments=[0, 0, 0, 1, 1]).groups() == [(0, 1), (2,), (3, 4)]


@pytest.mark.parametrize("step_fs", [0.7, 1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("n", [1, 7, 24])
def test_each_label_is_in_one_group(n, step_fs):
    members = [index for group in labels_of(n, step_fs=step_fs).groups() for index in group]
    assert sorted(members) == list(range(n))


def test_nothing_is_dropped_while_there_is_room():
    groups = groups_of(labels_of(10))
    assert select_groups(groups, 10, np.random.default_rng(0)) == groups


def test_half_are_those_with_the_largest_difference_and_the_rest_is_random():
    differences = np.tile([0.01, 0.02], 50)
    differences[[13, 40, 77]] = [0.9, 0.8, 0.7]
    groups = groups_of(labels_of(100, differences=differences))
    drawn = [select_groups(groups, 12, np.random.default_rng(seed)) for seed in range(20)]
    largest = {(12, 13), (40, 41), (76, 77)}
    for chosen in drawn:
        members = [group.members for group in chosen]
        assert largest < set(members)
        assert members == sorted(members)
        assert sum(map(len, members)) == 12
    assert len({tuple(group.members for group in chosen) for chosen in drawn}) > 10


def test_without_differences_the_choice_is_random_and_repeatable():
    groups = groups_of(labels_of(100))
    one, same = (select_groups(groups, 20, np.random.default_rng(1)) for _ in range(2))
    assert one == same
    assert sum(len(group.members) for group in one) == 20


def test_training_reads_labels_twins_and_split(tmp_path):
    labels = labels_of(3, step_fs=2.0)
    (twins, alone) = (LabeledGroup(labels, members, ATOMS, 300.0) for members in [(0, 2), (1,)])
    examples = [*twins.examples("train", 7, 2), *alone.examples("test", 8, 2)]
    write_examples(tmp_path / "data" / "round-2.xyz", examples)
    found = ase.io.read(tmp_path / "data" / "round-2.xyz", ":")
    assert [each.info["split"] for each in found] == ["train", "train", "test"]
    assert [int(each.info["group"]) for each in found] == [7, 7, 8]
    assert [each.info.get("gap_fs") for each in found] == [4.0, 4.0, None]
    for each, index in zip(found, [0, 2, 1], strict=True):
        assert each.get_potential_energy() == pytest.approx(labels.energies[index])
        np.testing.assert_allclose(each.positions, labels.positions[index], atol=1e-7)
        np.testing.assert_allclose(each.get_forces(), labels.forces[index], atol=1e-7)
        np.testing.assert_allclose(each.get_stress(), labels.stresses[index], atol=1e-7)


def test_a_teacher_without_stress_leaves_it_out(tmp_path):
    labels = labels_of(1)
    labels.stresses[:] = np.nan
    (example,) = LabeledGroup(labels, (0,), ATOMS, 300.0).examples("train", 0, 0)
    write_examples(tmp_path / "one.xyz", [example])
    assert "stress" not in ase.io.read(tmp_path / "one.xyz").calc.results


def test_labels_survive_a_file(tmp_path):
    labels = labels_of(4)
    write_labels(tmp_path / "labels.npz", labels.arrays(), {"note": "é"})
    content, facts = read_labels(tmp_path / "labels.npz")
    assert facts == {"note": "é"}
    for name, array in labels.arrays().items():
        np.testing.assert_array_equal(content[name], array)
