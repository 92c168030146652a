"""Tests of the page of the study: numbers from the report, and sentences that follow by rule."""

import copy
import json

import ase.io
import pytest
from bench.paper.__main__ import main, parse_arguments
from bench.paper.claims import claims_of
from bench.paper.comparisons import comparisons
from bench.paper.document import heavy_parts, seconds_per_epoch

ESTIMATE = {"value": 1.0, "error": 0.01, "n_independent": 40.0, "is_reliable": True}
REPORT = {
    "conditions": {"temperature_k": 300.0, "time_step_fs": 0.5, "seed": 0},
    "thresholds": {"max_drift": 0.05},
    "pieces": {
        "nve": {
            "nve:direct": {"drift": {"rate": 30.0, "error": 1.0}},
            "nve:hybrid-8": {"drift": {"rate": 0.004, "error": 0.004}, "rmse": {"value": 0.03}},
            "nve:conservative": {"drift": {"rate": -0.001, "error": 0.003}},
        },
        "nvt": {
            "nvt:direct:svr:10": {
                "species_temperatures": {
                    "H": ESTIMATE | {"value": 295.0, "error": 1.0},
                    "O": ESTIMATE | {"value": 310.0, "error": 2.0},
                }
            },
            "nvt:hybrid-8:svr:10": {
                "species_temperatures": {
                    "H": ESTIMATE | {"value": 299.5, "error": 1.0},
                    "O": ESTIMATE | {"value": 301.0, "error": 2.0},
                }
            },
        },
        "cost": {
            "cost": {
                "f": ESTIMATE | {"value": 2.4},
                "ways": {
                    "conservative": {"over_direct": ESTIMATE | {"value": 2.4}},
                    "hybrid-8": {
                        "over_direct": ESTIMATE | {"value": 1.19},
                        "speed_up_over_conservative": ESTIMATE | {"value": 2.05},
                        "over_expected": ESTIMATE | {"value": 1.01},
                    },
                },
            }
        },
    },
}


def verdicts(report):
    return [claim.holds for claim in claims_of(report)]


def changed(piece, key, **values):
    report = copy.deepcopy(REPORT)
    report["pieces"][piece][key] |= values
    return report


def hybrid_at(hydrogen, error, *, is_reliable=True):
    species = {"H": ESTIMATE | {"value": hydrogen, "error": error, "is_reliable": is_reliable}}
    return changed("nvt", "nvt:hybrid-8:svr:10", species_temperatures=species)


def test_claims_that_the_numbers_support_hold():
    assert verdicts(REPORT) == ["yes"] * 6


def test_claims_without_simulations_are_not_shown():
    assert verdicts(REPORT | {"pieces": {}}) == ["not shown"] * 6


@pytest.mark.parametrize(
    ("index", "report", "holds"),
    [
        (0, hybrid_at(290.0, 1.0), "no"),
        (0, hybrid_at(300.0, 4.0), "not shown"),
        (0, hybrid_at(300.0, 1.0, is_reliable=False), "not shown"),
        (2, changed("nve", "nve:hybrid-8", drift={"rate": 3.4, "error": 0.1}), "no"),
        (2, changed("nve", "nve:hybrid-8", drift={"rate": 0.0, "error": 1.0}), "not shown"),
        (1, changed("nvt", "nvt:direct:svr:10", status="stopped", note="stopped at 2000 K"), "yes"),
    ],
)
def test_claims_follow_from_the_numbers(index, report, holds):
    assert verdicts(report)[index] == holds


@pytest.mark.parametrize(
    ("name", "value", "index", "holds"),
    [
        ("over_direct", 1.4, 3, "no"),
        ("over_direct", 1.24, 3, "not shown"),
        ("speed_up_over_conservative", 1.8, 4, "no"),
        ("over_expected", 1.2, 5, "no"),
        ("over_expected", 0.8, 5, "no"),
    ],
)
def test_costs_are_compared_with_the_claimed_ones(name, value, index, holds):
    report = copy.deepcopy(REPORT)
    report["pieces"]["cost"]["cost"]["ways"]["hybrid-8"][name]["value"] = value
    assert verdicts(report)[index] == holds


def test_only_measured_values_are_compared():
    assert list(comparisons({"conditions": {}, "pieces": {}}, {}, {})) == []
    text = " ".join(comparisons(REPORT, {}, {}))
    assert "116 ± 4 K/ps" in text
    assert "H is cold, O is hot here" in text
    assert "F = 2.400 ± 0.010 over the network here, below the paper's 2.7" in text


def test_epochs_are_timed_within_stages():
    log = [
        {"stage": stage, "cpu_s": str(seconds)}
        for stage, seconds in (("direct", 10), ("direct", 20), ("slow", 70), ("slow", 95))
    ]
    assert seconds_per_epoch(log) == {"direct": 10.0, "slow": 25.0}


def test_the_study_writes_its_page_with_figures(server, atoms, tmp_path):
    ase.io.write(tmp_path / "start.extxyz", atoms)
    docs = tmp_path / "docs"
    arguments = [
        f"--url={server.grpc_url}",
        "--model=lj",
        f"--start={tmp_path / 'start.extxyz'}",
        f"--out={tmp_path / 'out'}",
        f"--docs={docs}",
        "--pieces=loops,lambda,nve:direct",
        "--equilibration=0",
    ]
    assert main([*arguments, "--minutes=0"]) == 0
    page = (docs / "paper.md").read_text()
    assert page.count("**not shown**") == 6
    assert main([*arguments[:-2], "--pieces=loops,lambda", "--equilibration=0"]) == 0
    page = (docs / "paper.md").read_text()
    report = json.loads((docs / "paper" / "report.json").read_text())
    value = report["pieces"]["lambda"]["lambda:server"]["lambda"]
    assert f"| direct, automatic differentiation (service) | {value:.5f} |" in page
    for name in ("lambda", "loops"):
        assert f"](paper/{name}.png)" in page
        assert (docs / "paper" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert main([*arguments, "--seed=1"]) == 2


def test_heavier_hydrogens_are_a_separate_study():
    masses = {"H": 3.0, "O": 12.0}
    drifts = {"8": ESTIMATE | {"value": 0.0123}}
    heavy = REPORT | {
        "atoms": {"masses": masses},
        "provenance": {"version": "7"},
        "pieces": {"resonance": {"resonance": {"drifts": drifts}}},
    }
    text = "\n".join(heavy_parts(heavy))
    assert "## Heavier hydrogens of 3 amu" in text
    assert "| 8 | 4 | 8339 | 0.012 ± 0.010" in text
    assert "for version 7" in text
    usual, other = (parse_arguments(each).out.name for each in ([], ["--hydrogen-mass", "3"]))
    assert usual != other
