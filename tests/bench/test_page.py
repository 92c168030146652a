"""Tests of the figures that measurements derive from their numbers, and of their page."""

import numpy as np
import pytest
from bench.__main__ import PARTS, main
from bench.measurements.crowd import compared
from bench.measurements.sizes import straight_line
from bench.measurements.step import without_evaluation
from bench.report import page
from bench.report.bars import BARS, Bar, table
from bench.report.limits import bottleneck, limits
from bench.report.plots import draw
from bench.runner import record
from bench.runner.systems import gas, water_box
from bench.runner.timing import Rounds, Timing, rounds_in_turn

UPPER = Bar("a ratio", "file", "ratio", 1.5)
LOWER = Bar("a rate", "file", "rate", 1000.0, is_upper=False, form="{:.0f}", unit="/s")


def timing(median):
    return {"median": median, "low": 0.9 * median, "high": 1.1 * median}


def sizes():
    return {
        "figures": {"memory per atom, KB": timing(100.0)},
        "memory_bytes": {"54": 5_000_000, "20577": 2_000_000_000},
        "milliseconds": {
            f"{kind} {size}": timing(ms)
            for kind in ("direct", "conservative")
            for size, ms in ((54, 5.0), (20577, 2000.0))
        },
        "lines": {
            kind: {"fixed_ms": 1.0, "us_per_atom": 97.0} for kind in ("direct", "conservative")
        },
    }


def step():
    return {
        "figures": {"over echo": timing(1.4)},
        "n_atoms": 64,
        "milliseconds": {
            "echo": timing(0.2) | {"cpu": {"client": 0.1, "echo": 0.1}},
            "echo, asyncio": timing(0.2) | {"cpu": {"client": 0.1, "echo": 0.1}},
            "evaluation in this process": timing(0.5) | {"cpu": {"client": 0.5}},
            "process engine": timing(1.0) | {"cpu": {"client": 0.3, "service": 0.5, "engine": 0.6}},
            "process engine, asyncio": timing(1.0)
            | {"cpu": {"client": 0.3, "service": 0.8, "engine": 0.6}},
        },
    }


def test_a_ratio_is_taken_round_by_round():
    rounds = Rounds({"fast": [1.0, 2.0, 4.0], "slow": [2.0, 4.0, 8.0]})
    assert rounds.ratio("slow", "fast") == Timing(2.0, 2.0, 2.0)
    assert rounds.timings()["fast"].median == 2.0


def test_the_time_of_a_step_without_its_evaluation_is_relative_to_an_echo():
    taken = {
        "process engine": [5.0, 9.0],
        "evaluation in this process": [3.0, 3.0],
        "echo": [1.0, 3.0],
    }
    assert without_evaluation(Rounds(taken)) == Timing(2.0, 2.0, 2.0)


def test_every_other_round_is_in_reverse_order():
    called = []
    rounds = rounds_in_turn(
        {name: lambda name=name: called.append(name) for name in "ab"}, 0.2, n_warm_up=0
    )
    assert called[:8] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert len(rounds.taken["a"]) == len(rounds.taken["b"]) == len(called) // 2


def test_a_function_is_called_several_times_in_its_turn():
    called, times = [], iter(range(1000))
    things = {name: lambda name=name: called.append(name) for name in "ab"}
    rounds = rounds_in_turn(
        things, 0.0, n_warm_up=0, clock=lambda: float(next(times)), n_in_a_row=4
    )
    assert called == ["a"] * 4 + ["b"] * 4
    assert rounds.taken == {"a": [250.0], "b": [250.0]}


@pytest.mark.parametrize(
    ("bar", "median", "verdict"),
    [
        (UPPER, 1.5, "met"),
        (UPPER, 1.51, "**missed**"),
        (LOWER, 1000.0, "met"),
        (LOWER, 999.0, "**missed**"),
        (Bar("no limit", "file", "x", None), 1.0, ""),
    ],
)
def test_the_median_decides_whether_a_bar_is_met(bar, median, verdict):
    assert bar.verdict(Timing(median, 0.0, 1e9)) == verdict


def test_a_row_shows_the_measured_value_or_that_there_is_none():
    lines = table((UPPER, LOWER), {"file": {"figures": {"rate": timing(2000.0)}}})
    assert lines[2] == "| a ratio | ≤ 1.50× | not measured |  |"
    assert lines[3] == "| a rate | ≥ 1000/s | 2000/s (1800 to 2200) | met |"


def test_a_written_record_is_read_back(tmp_path):
    found = Timing(1.0, 0.5, 2.0)
    record.write(tmp_path, "some", {"over echo": found}, n_atoms=64)
    content = record.read(tmp_path, "some")
    assert record.figure(content, "over echo") == found
    assert record.figure(content, "other") is None
    assert content["n_atoms"] == 64
    assert content["machine"]["n_cores"] >= 1
    assert record.read(tmp_path, "none") == {}


def test_a_straight_line_is_fitted_exactly():
    sizes = [54, 192, 648, 2187]
    fixed, slope, deviation = straight_line(sizes, [2.0 + 0.1 * n for n in sizes])
    assert (fixed, slope) == pytest.approx((2.0, 0.1))
    assert deviation == pytest.approx(0.0, abs=1e-12)


def test_no_other_line_is_closer_to_the_times():
    sizes, times = [54, 192, 648, 2187], [8.0, 20.0, 90.0, 250.0]
    fixed, slope, deviation = straight_line(sizes, times)

    def deviation_of(a, b):
        return np.max(np.abs(a + b * np.array(sizes) - times) / times)

    assert deviation_of(fixed, slope) == pytest.approx(deviation)
    for a in np.linspace(-0.5, 0.5, 11):
        for b in np.linspace(-0.01, 0.01, 11):
            assert deviation_of(fixed + a, slope + b) >= deviation - 1e-12


def test_the_comparison_uses_the_best_setting_of_the_peer():
    found = compared([100.0], {"with a wait": [10.0, 10.0], "without": [20.0, 25.0]})
    assert (found.low, found.high) == pytest.approx((4.1, 4.9))


def test_boxes_of_water_have_the_density_of_the_liquid():
    box = water_box(4, 4, 4)
    assert len(box) == 192
    # 18.015 g/mol in g/cm³.
    density = 64 * 18.015 / 0.602214 / np.linalg.det(box.cell)
    assert density == pytest.approx(0.997, abs=0.003)
    bonds = np.linalg.norm(box.positions[1::3] - box.positions[::3], axis=1)
    assert bonds == pytest.approx(0.957, abs=0.001)
    assert len(gas(64)) == 64


def test_the_difference_from_the_lower_bound_is_listed():
    lines = limits({"step": step()})
    assert lines[2].endswith("| 0.70 | 1.00 | 0.30 (+42.9%) |")
    assert limits({}) == []


def test_the_next_bottleneck_is_the_process_that_adds_most():
    (text,) = bottleneck({"step": step()})
    assert "client 0.20 ms, service 0.70 ms, engine 0.10 ms" in text
    assert "**service**" in text
    assert bottleneck({}) == []


def test_the_page_has_a_row_for_each_bar_when_nothing_was_measured():
    written = page.write_page({}, [], "performance")
    assert written.count("| not measured |") == len(BARS)
    assert "Nothing has been measured yet." in written
    assert "it was not run" in written


def test_the_page_names_failed_and_skipped_measurements():
    failed = "it ended with exit status 1"
    run = {"load_before": 0.1, "rows": {"idle": {"load_before": 0.2, "failed": failed}}}
    machine = {
        "processor": "P", "n_cores": 2, "n_threads": 1, "python": "3", "torch": "2", "grpcio": "1",
        "twinforce": "0",
    }  # fmt: skip
    crowd = {"machine": machine, "measured": "2026-01-02T00:00:00", "not_compared": "no Ray here"}
    written = page.write_page(
        {"run": run, "crowd": crowd, "gpu": {"skipped": "no GPU here"}}, [], "performance"
    )
    assert "P, 2 cores" in written
    assert "2026-01-02" in written
    assert f"`idle` failed: {failed}." in written
    assert "no Ray here" in written
    assert "Not measured: no GPU here." in written


def test_the_page_shows_the_measurements_on_a_gpu():
    gpu = {
        "device": "Some GPU",
        "machine": {"torch": "2.11.0"},
        "measured": "2026-11-26T10:00:00+00:00",
        "figures": {"PET, calculator over one walker": timing(2.5)},
        "us_per_atom_and_step": {
            "direct": {"1": timing(9.0), "2": timing(5.0)},
            "conservative": {"1": timing(12.0)},
            "hybrid": {"1": timing(13.0)},
        },
        "n_walkers": 32,
        "new_sizes_ms": {"81": {"first": 9.0, "second": 80.0, "later": 1.25}},
        "served": {"water": {"ms": timing(2.5), "evaluations/s": timing(4000.0)}},
        "profiles": {
            "PET": {
                "operations": [{"operation": "gemm|x", "share": 0.5, "ms_per_step": 1.25}],
                "search": 0.025,
                "ms_per_step": 2.5,
            }
        },
    }
    written = page.write_page({"gpu": gpu}, [], "performance")
    assert "Some GPU, torch 2.11.0, 2026-11-26." in written
    assert "| 2 | 5.000 |  |  |" in written
    assert "| `gemm/x` | 50.0% | 1.250 |" in written
    assert "PET: 2.50 ms on the device, 2.5% of it for the neighbor search." in written
    assert "| 81 | 9.0 | 80.0 | 1.25 |" in written
    assert "takes 2.50 ms, and 32 walkers get 4000 evaluations/s together" in written
    assert "2.50× (2.25 to 2.75) | met |" in written


def test_plots_are_drawn_for_existing_results_and_shown_on_the_page(tmp_path):
    results = {"sizes": sizes(), "step": step(), "crowd": {}}
    assert draw(results, tmp_path) == ["sizes", "step"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sizes.png", "step.png"]
    written = page.write_page(results, ["sizes", "step"], "performance")
    assert "(performance/step.png)" in written
    assert "| 20,577 | 2000.0 (1800.0-2200.0) | 2000.0 (1800.0-2200.0) | 2000 |" in written


def test_the_page_names_a_measurement_that_fails(tmp_path, monkeypatch):
    monkeypatch.setitem(PARTS, "missing", 1.0)
    options = [f"--out={tmp_path}", f"--page={tmp_path / 'page.md'}"]
    assert main(["--only", "missing", *options]) == 1
    content = record.read(tmp_path, "run")
    assert content["rows"]["missing"]["failed"] == "it ended with exit status 1"
    page_text = (tmp_path / "page.md").read_text()
    assert "`missing` failed: it ended with exit status 1." in page_text
