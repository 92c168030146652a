"""Tests of the rules by which a soak passes or fails, and of its page."""

import json

import pytest

from tests.soak.__main__ import DOCS
from tests.soak.judging import growth, judge
from tests.soak.page import page

FLAT = {
    "server_mb": 100.0, "engine_mb": 250.0, "server_files": 30.0, "engine_files": 8.0,
    "polite_p50_ms": 3.0, "polite_p99_ms": 10.0, "live_p50_ms": 1.0, "live_p99_ms": 4.0,
    "machine_p99_ms": 1.0, "cores": 0.2,
}  # fmt: skip


def samples(**slopes):
    """Return half an hour of samples, of which some quantities grow per minute."""
    return [
        {"minute": float(minute)}
        | {name: value + slopes.get(name, 0.0) * minute for name, value in FLAT.items()}
        for minute in range(1, 31)
    ]


def broken(found, n_failed=0, errors=()):
    return [each.rule for each in judge(found, n_failed, errors) if not each.is_kept]


def test_what_stays_flat_passes():
    assert broken(samples()) == []


@pytest.mark.parametrize(
    ("slopes", "word"),
    [
        ({"server_mb": 0.3}, "memory of the server"),
        ({"engine_mb": 0.4}, "memory of the engine"),
        ({"server_files": 1.0}, "server has"),
        ({"engine_files": 1.0}, "engine has"),
        ({"polite_p99_ms": 2.0}, "`polite`"),
        ({"live_p99_ms": 3.0}, "`live`"),
    ],
)
def test_what_grows_breaks_its_rule_alone(slopes, word):
    (rule,) = broken(samples(**slopes))
    assert word in rule


def test_growth_during_warm_up_does_not_count():
    found = samples()
    for each in found:
        each["server_mb"] += 40.0 * min(each["minute"], 10.0)
    assert broken(found) == []


def test_a_jump_to_and_fro_is_no_growth():
    found = samples()
    found[15]["server_mb"] += 500.0
    assert broken(found) == []
    assert growth(found, "server_mb") == 0.0


def test_a_machine_that_is_late_itself_is_no_fault_of_the_service():
    found = samples()
    for each in found[-10:]:
        each["live_p99_ms"] += 30.0
        each["machine_p99_ms"] += 30.0
    assert broken(found) == []


def test_failures_and_errors_break_rules():
    assert broken(samples(), n_failed=1) == ["no probe fails"]
    assert broken(samples(), errors=["walker: x"]) == ["no client has an unexpected error"]


@pytest.mark.skipif(not (DOCS / "soak.json").exists(), reason="not measured yet")
def test_the_page_in_the_documentation_is_made_from_its_data():
    data = json.loads((DOCS / "soak.json").read_text())
    assert (DOCS / "soak.md").read_text(encoding="utf-8") == page(data)
