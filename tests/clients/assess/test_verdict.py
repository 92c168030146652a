"""Tests that the verdict follows from the numbers by its rules, and from nothing else."""

import copy

import pytest

from twinforce.assess.report.verdict import (
    Thresholds,
    judge,
    judge_at_least,
    judge_drift,
    judge_temperatures,
)

AT_300_K = Thresholds.at(300.0)
NOTHING_IS_SAFE = "At constant temperature, nothing has been shown to be safe yet."


def estimate(value, error, is_reliable=True):
    return {"value": value, "error": error, "n_independent": 50.0, "is_reliable": is_reliable}


def nve(rate, error, status="done"):
    return {"status": status, "note": "", "drift": {"rate": rate, "error": error}}


def nvt(hydrogen, oxygen, error=1.0, *, is_reliable=True, diffusion=(0.25, 0.005), shift=0.0):
    return {
        "status": "done",
        "note": "",
        "species_temperatures": {
            "H": estimate(300 + hydrogen, error, is_reliable),
            "O": estimate(300 + oxygen, error, is_reliable),
        },
        "expected_shifts_k": {"H": -shift, "O": 2 * shift},
        "diffusion": {"H": estimate(*diffusion), "O": estimate(*diffusion)},
        "largest_wave_number": 8000.0,
        "spectra": {"H": {"highest": 3700.0}, "O": {"highest": 3650.0}},
    }


REPORT = {
    "conditions": {"temperature_k": 300.0, "time_step_fs": 0.5},
    "pieces": {
        "start": {"start": {"square_frequencies": {"H": 0.16, "O": 0.02}}},
        "optimise": {
            "optimise:direct": {"success_rate": 0.0, "success_error": 0.05, "n_done": 16},
            "optimise:conservative": {"success_rate": 1.0, "success_error": 0.03, "n_done": 16},
        },
        "nve": {
            "nve:conservative": nve(0.0001, 0.002),
            "nve:direct": nve(30.0, 1.0),
            "nve:hybrid-4": nve(0.004, 0.003),
            "nve:hybrid-8": nve(0.04, 0.02),
        },
        "nvt": {
            "nvt:direct:svr:10": nvt(-6.0, 12.0),
            "nvt:hybrid-8:svr:10": nvt(-0.5, 1.0),
            "nvt:hybrid-8:langevin:10": nvt(0.5, 1.0, diffusion=(0.05, 0.002)),
            "nvt:conservative:svr:10": nvt(-0.5, 1.0),
        },
    },
}


def findings(report):
    judgments = judge(report, AT_300_K).judgements
    return {(each.topic, each.subject): each.finding for each in judgments}


def changed(piece, key, unit):
    report = copy.deepcopy(REPORT)
    report["pieces"][piece][key] = unit
    return report


@pytest.mark.parametrize(
    ("rate", "error", "finding"),
    [
        (0.001, 0.002, "safe"),
        (-0.02, 0.01, "safe"),
        (0.04, 0.02, "not shown"),
        (0.0, 1.0, "not shown"),
        (0.2, 0.02, "unsafe"),
        (-0.2, 0.02, "unsafe"),
    ],
)
def test_energy_is_safe_if_its_drift_is_certainly_small(rate, error, finding):
    assert judge_drift(rate, error, limit=0.05) == finding


@pytest.mark.parametrize(
    ("deviations", "finding"),
    [
        ({"H": (-0.5, 1.0, True), "O": (1.0, 2.0, True)}, "safe"),
        ({"H": (-4.4, 0.3, True), "O": (9.9, 0.6, True)}, "unsafe"),
        ({"H": (-0.9, 0.1, True), "O": (0.5, 0.3, True)}, "not shown"),
        ({"H": (-2.5, 1.0, True), "O": (0.0, 1.0, True)}, "not shown"),
        ({"H": (-0.5, 4.0, True), "O": (0.0, 1.0, True)}, "not shown"),
        ({"H": (-0.5, 1.0, False), "O": (0.0, 1.0, True)}, "not shown"),
        ({"H": (-50.0, 1.0, False), "O": (0.0, 1.0, True)}, "not shown"),
        ({}, "not shown"),
    ],
)
def test_temperatures_are_safe_if_every_species_certainly_has_the_right_one(deviations, finding):
    assert judge_temperatures(deviations, limit=3.0) == finding


def test_a_fraction_is_large_enough_only_beyond_its_error():
    assert judge_at_least(0.95, 0.05, 0.8) == "safe"
    assert judge_at_least(0.85, 0.1, 0.8) == "not shown"
    assert judge_at_least(0.5, 0.1, 0.8) == "unsafe"


def test_every_unit_is_judged():
    found = findings(REPORT)
    assert found["energy", "nve:conservative"] == "safe"
    assert found["energy", "nve:direct"] == "unsafe"
    assert found["energy", "nve:hybrid-4"] == "safe"
    assert found["energy", "nve:hybrid-8"] == "not shown"
    assert found["temperature", "nvt:direct:svr:10"] == "unsafe"
    assert found["temperature", "nvt:hybrid-8:svr:10"] == "safe"
    assert found["motion", "nvt:hybrid-8:svr:10"] == "safe"
    assert found["motion", "nvt:hybrid-8:langevin:10"] == "unsafe"
    assert found["optimisation", "optimise:direct"] == "unsafe"
    assert found["optimisation", "optimise:conservative"] == "safe"
    assert found["time step", "0.5 fs"] == "safe"
    assert found["outer step", "2 fs"] == "safe"
    assert found["outer step", "4 fs"] == "not shown"


def test_advice_names_the_cheapest_safe_way_that_preserves_motion():
    advice = judge(REPORT, AT_300_K).advice
    assert advice[0] == (
        "Without a thermostat: safe (conservative; MTS, M = 4), unsafe (direct), "
        "not shown (MTS, M = 8)."
    )
    assert advice[1].startswith("At constant temperature, use MTS, M = 8 with SVR, τ = 10 fs")
    assert any("direct with SVR, τ = 10 fs is unsafe" in each for each in advice)
    slowed = "Langevin, τ = 10 fs keeps the target temperature but slows motion"
    assert any(slowed in each for each in advice)


@pytest.mark.parametrize("way", ["direct:langevin:100", "direct:svr-local:100"])
def test_friction_on_direct_forces_is_not_advised_unless_motion_is_shown_to_be_right(way):
    report = copy.deepcopy(REPORT)
    unit = nvt(0.1, -0.1)
    unit.pop("diffusion", None)
    report["pieces"]["nvt"] = {f"nvt:{way}": unit}
    advice = judge(report, AT_300_K).advice
    assert findings(report)["temperature", f"nvt:{way}"] == "safe"
    assert NOTHING_IS_SAFE in advice
    assert any("its effect on motion is not shown" in each for each in advice)


def test_a_simulation_that_is_too_short_shows_nothing_and_is_not_advised():
    report = copy.deepcopy(REPORT)
    report["pieces"]["nvt"] = {"nvt:hybrid-8:svr:10": nvt(0.0, 0.0, is_reliable=False)}
    assert findings(report)["temperature", "nvt:hybrid-8:svr:10"] == "not shown"
    assert NOTHING_IS_SAFE in judge(report, AT_300_K).advice


def test_the_shift_by_the_finite_time_step_is_not_attributed_to_the_forces():
    report = changed("nvt", "nvt:hybrid-8:svr:10", nvt(-2.0, 4.0, error=0.5, shift=2.0))
    assert findings(report)["temperature", "nvt:hybrid-8:svr:10"] == "safe"
    report = changed("nvt", "nvt:hybrid-8:svr:10", nvt(-2.0, 4.0, error=0.5, shift=0.0))
    assert findings(report)["temperature", "nvt:hybrid-8:svr:10"] == "unsafe"


def test_simulations_that_exploded_are_unsafe():
    stopped = {"status": "stopped", "note": "stopped at 1600 K after 900 fs", "drift": None}
    assert findings(changed("nve", "nve:direct", stopped))["energy", "nve:direct"] == "unsafe"
    assert (
        findings(changed("nvt", "nvt:direct:svr:10", stopped))["temperature", "nvt:direct:svr:10"]
        == "unsafe"
    )


def test_outer_steps_resonate_with_fast_vibrations():
    report = changed("nve", "nve:hybrid-16", nve(1.0, 0.01))
    found = findings(report)
    assert found["outer step", "8 fs"] == "unsafe"  # half of the period at 3700/cm is 4.5 fs
    assert found["outer step", "4 fs"] == "not shown"
    assert found["outer step", "2 fs"] == "safe"


def test_too_long_a_step_is_unsafe():
    report = copy.deepcopy(REPORT)
    report["conditions"]["time_step_fs"] = 1.5
    assert findings(report)["time step", "1.5 fs"] == "unsafe"


def test_an_empty_report_shows_nothing():
    report = {"conditions": REPORT["conditions"], "pieces": {}}
    found = judge(report, AT_300_K)
    assert found.judgements == ()
    assert found.advice == ("Without a thermostat, nothing has been shown.",)
