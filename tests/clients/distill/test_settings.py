"""Tests of the settings of a distillation and of how its time is shared out."""

import pytest

from twinforce.distill import DistillSettings, TeacherSource, default_time_step_fs
from twinforce.distill.programs.services import ServiceOptions
from twinforce.distill.sampling.sampling_round import walks_of


@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
def test_the_shares_of_the_phases_add_up(rounds):
    shares = DistillSettings(teacher="a:b", rounds=rounds).phases()
    assert sum(shares.values()) == pytest.approx(100)
    assert next(iter(shares)) == "sample-0"
    assert list(shares)[-1] == "measure"
    trainings = [share for name, share in shares.items() if name.startswith("train")]
    assert sum(trainings) == pytest.approx(35)
    assert max(trainings) == trainings[-1]


@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
def test_later_rounds_sample_for_longer_and_add_more_labels(rounds):
    settings = DistillSettings(teacher="a:b", rounds=rounds)
    shares = [settings.phases()[f"sample-{number}"] for number in range(rounds)]
    labels = [settings.n_labels(192, number) for number in range(rounds)]
    assert shares == pytest.approx([shares[0] * (number + 1) for number in range(rounds)])
    assert labels == pytest.approx([labels[0] * (number + 1) for number in range(rounds)], abs=3)
    assert DistillSettings(teacher="a:b", minutes=1.0).n_labels(10_000, 0) == 48


def test_the_first_round_is_driven_by_the_teacher_and_later_ones_by_students():
    settings = DistillSettings(teacher="a:b")
    assert [settings.inner_steps(number) for number in range(4)] == [1, 4, 8, 8]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"minutes": 0.0}, "--minutes"),
        ({"temperatures_k": ()}, "--temperature"),
        ({"temperatures_k": (300.0, -1.0)}, "--temperature"),
        ({"time_step_fs": float("nan")}, "--time-step"),
        ({"rounds": 0}, "--rounds"),
        ({"strains": (0.5,)}, "--strain"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(values, named):
    with pytest.raises(ValueError, match=named):
        DistillSettings(teacher="a:b", **values)


def test_light_atoms_need_shorter_steps():
    assert default_time_step_fs(1.008) == 0.5
    assert default_time_step_fs(3.0) == default_time_step_fs(26.98) == 1.0


def test_all_temperatures_and_densities_are_sampled_and_one_above():
    settings = DistillSettings(teacher="a:b", temperatures_k=(300.0, 400.0), strains=(0.02,))
    walks = walks_of(2, settings, 0)
    training = {(each.system, each.scale, each.temperature_k) for each in walks[:-1]}
    assert training == {
        (system, scale, temperature)
        for system in (0, 1)
        for scale in (1.0, 1.02)
        for temperature in (300.0, 400.0, 480.0)
    }
    assert [each.is_test for each in walks] == [False] * 12 + [True]
    assert walks[-1].temperature_k == 300.0
    assert len({each.key for each in walks}) == len(walks)


def test_many_systems_take_turns():
    settings = DistillSettings(teacher="a:b")
    rounds = [walks_of(20, settings, number) for number in range(3)]
    assert [len(walks) for walks in rounds] == [13, 13, 13]
    assert walks_of(20, settings, 1) == rounds[1]
    assert {each.system for each in rounds[0]} != {each.system for each in rounds[1]}
    assert [walks[-1].system for walks in rounds] == [0, 1, 2]


def test_a_path_or_a_colon_makes_a_spec_and_anything_else_is_a_served_model(tmp_path):
    def is_spec(text):
        return TeacherSource.of(text, "grpc://h:1", ServiceOptions(), {}).is_spec

    assert is_spec("mace:small")
    assert is_spec(str(tmp_path))
    assert not is_spec("mace")
