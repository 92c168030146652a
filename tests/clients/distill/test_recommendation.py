"""Tests that the recommendation follows from given numbers by its rules."""

from dataclasses import replace

import pytest

from twinforce.distill.results.recommendation import (
    Evidence,
    candidates,
    next_to_run,
    reason_against,
    recommend,
    speed_up,
    standing_of,
    step_ms_of,
)


def drift(value, error=0.002):
    return {"value": value, "error": error, "n_independent": 9.0, "is_reliable": True}


def run_of(rate, error=0.005, status="done"):
    return {"status": status, "drift": {"rate": rate, "error": error}}


# A teacher that costs 50 inner steps of the student, on a system that vibrates with 9 fs.
EVIDENCE = Evidence(
    time_step_fs=0.5,
    period_fs=9.0,
    predicted={4: drift(0.001), 6: drift(0.004), 8: drift(0.02), 12: drift(0.01)},
    step_ms={"direct": 1.0, "conservative": 50.0, "hybrid-8": 7.5},
    max_drift=0.05,
)


def test_the_fastest_candidate_is_recommended():
    found = recommend(EVIDENCE)
    assert found.inner_steps == 8
    assert found.standing == "not shown"
    assert found.speed_up == pytest.approx(50 / 7.5)
    assert found.thermostat == "svr:10"
    assert "M = 8" in found.reasons[0]
    assert "6.7 times" in found.reasons[0]


def test_outer_steps_from_half_of_the_shortest_period_are_no_candidates():
    assert "4.5 fs" in reason_against(EVIDENCE, 9)
    assert "4.5 fs" in reason_against(EVIDENCE, 12)
    assert max(candidates(EVIDENCE)) == 8
    slower = replace(EVIDENCE, period_fs=15.0)
    assert recommend(slower).inner_steps == 12


def test_a_predicted_drift_counts_with_two_errors():
    uncertain = replace(EVIDENCE, predicted={**EVIDENCE.predicted, 8: drift(0.02, 0.016)})
    assert "predicted drift" in reason_against(uncertain, 8)
    assert recommend(uncertain).inner_steps == 6
    just_within = replace(EVIDENCE, predicted={**EVIDENCE.predicted, 8: drift(0.02, 0.015)})
    assert recommend(just_within).inner_steps == 8


def test_a_real_run_shows_or_refutes():
    shown = replace(EVIDENCE, runs={8: run_of(-0.03)})
    assert recommend(shown).standing == "shown"
    refuted = replace(EVIDENCE, runs={8: run_of(0.2)})
    assert standing_of(refuted, 8) == "refuted"
    assert recommend(refuted).inner_steps == 6
    assert any("M = 8 gain too much" in each for each in recommend(refuted).reasons)
    undecided = replace(EVIDENCE, runs={8: run_of(0.04, 0.03)})
    assert recommend(undecided).inner_steps == 8
    assert recommend(undecided).standing == "not shown"
    broken = replace(EVIDENCE, runs={8: {"status": "stopped", "drift": None}})
    assert standing_of(broken, 8) == "refuted"


def test_a_run_of_less_than_a_picosecond_decides_only_if_it_is_wild():
    for rate, picoseconds, standing in (
        (0.2, 0.23, "not shown"),
        (0.0, 0.9, "not shown"),
        (0.9, 0.23, "refuted"),
        (-0.9, 0.23, "refuted"),
        (0.2, 1.0, "refuted"),
        (0.0, 1.0, "shown"),
    ):
        run = run_of(rate) | {"picoseconds": picoseconds}
        assert standing_of(replace(EVIDENCE, runs={6: run}), 6) == standing


def test_an_m_above_a_refuted_one_is_recommended_only_if_it_is_shown():
    runs = {4: run_of(0.2)}
    assert recommend(replace(EVIDENCE, runs=runs)).inner_steps == 3
    assert recommend(replace(EVIDENCE, runs=runs | {6: run_of(0.0)})).inner_steps == 6


def test_speeds_are_measured_or_computed_from_the_costs():
    assert speed_up(EVIDENCE, 8) == pytest.approx(50 / 7.5)
    # 1 / (1/50 + 1/4), times measured over expected at M = 8.
    expected_8, expected_4 = 1 / (1 / 50 + 1 / 8), 1 / (1 / 50 + 1 / 4)
    assert speed_up(EVIDENCE, 4) == pytest.approx(expected_4 * (50 / 7.5) / expected_8)
    assert speed_up(Evidence(time_step_fs=0.5), 4) is None


def test_a_speed_between_two_measured_ones_is_interpolated():
    # The direct forces of a composed hybrid were timed with the energy of the teacher.
    measured = {"direct": 20.0, "conservative": 50.0, "hybrid-4": 12.0, "hybrid-8": 7.5}
    assert speed_up(replace(EVIDENCE, step_ms=measured), 6) == pytest.approx(50 / 9.0)


def test_beyond_the_measured_ones_the_time_goes_on_linearly():
    measured = {"direct": 20.0, "conservative": 50.0, "hybrid-4": 12.0, "hybrid-8": 7.5}
    evidence = replace(EVIDENCE, step_ms=measured)
    assert step_ms_of(evidence, 1) == pytest.approx(7.5 + 7 * 4.5)
    assert step_ms_of(evidence, 16) == pytest.approx(7.5 - 4.5 / 2)


def test_a_shown_m_precedes_faster_ones_that_no_run_shows():
    runs = {8: run_of(0.04, 0.02), 6: run_of(0.01)}
    found = recommend(replace(EVIDENCE, runs=runs))
    assert (found.inner_steps, found.standing) == (6, "shown")


def test_runs_go_on_with_shorter_outer_steps_until_one_is_shown():
    assert next_to_run(EVIDENCE) == 8
    whole = {8: run_of(0.04, 0.02)}
    assert next_to_run(replace(EVIDENCE, runs=whole)) == 6
    shortened = {8: run_of(0.04, 0.02, status="shortened")}
    assert next_to_run(replace(EVIDENCE, runs=shortened)) == 8
    assert next_to_run(replace(EVIDENCE, runs=whole | {6: run_of(0.3)})) == 4
    assert next_to_run(replace(EVIDENCE, runs=whole | {6: run_of(0.01)})) is None
    none_left = whole | {6: run_of(0.04, 0.02), 4: run_of(0.04, 0.02)}
    assert next_to_run(replace(EVIDENCE, runs=none_left)) is None


def test_a_teacher_as_cheap_as_the_student_is_used_alone():
    cheap = replace(EVIDENCE, step_ms={"direct": 1.0, "conservative": 0.9})
    found = recommend(cheap)
    assert found.inner_steps is None
    assert "not faster" in found.reasons[1]


def test_without_any_candidate_the_reason_is_the_drift():
    worse = {m: drift(3.0, 0.1) for m in range(2, 17)}
    found = recommend(replace(EVIDENCE, predicted=worse))
    assert found.inner_steps is None
    assert "3.00 ± 0.10" in found.reasons[1]
    assert any("--minutes" in each for each in found.reasons)


def test_without_any_measurement_nothing_is_recommended():
    found = recommend(Evidence(time_step_fs=0.5))
    assert found.inner_steps is None
    assert "more --minutes" in found.reasons[0]


def test_without_a_prediction_a_moderate_outer_step_is_tried_and_the_run_decides():
    unknown = replace(EVIDENCE, predicted={}, period_fs=None)
    assert recommend(unknown).inner_steps == 8  # 4 fs
    assert "no drift could be predicted" in recommend(unknown).reasons[1]
    refuted = replace(unknown, runs={8: run_of(0.4)})
    assert recommend(refuted).inner_steps == 7
    shown = replace(unknown, runs={8: run_of(0.4), 5: run_of(0.001)})
    assert recommend(shown).inner_steps == 5
    assert recommend(shown).standing == "shown"


@pytest.mark.parametrize(
    ("finding", "text"),
    [("safe", "keeps its temperature."), ("unsafe", "fewer"), ("not shown", "is not shown")],
)
def test_the_thermostat_is_judged_by_its_own_run(finding, text):
    found = recommend(replace(EVIDENCE, thermostat={8: finding}))
    (sentence,) = (each for each in found.reasons if "SVR" in each)
    assert text in sentence


def test_heavier_hydrogens_are_mentioned_where_hydrogens_limit_the_outer_step():
    assert any("--hydrogen-mass 3" in each for each in recommend(EVIDENCE).reasons)
    heavy = replace(EVIDENCE, lightest_amu=3.0)
    assert not any("--hydrogen-mass" in each for each in recommend(heavy).reasons)
