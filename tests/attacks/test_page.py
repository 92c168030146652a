"""Tests of the page about the attacks."""

import json

import pytest

from tests.attacks.__main__ import BEFORE, DOCS, found_attacks
from tests.attacks.page import MAX_LIVE_MS, page, row

NOW = {
    "p50_ms": 1.0, "p99_ms": 12.3, "max_ms": 20.0, "n_failed": 0, "cpu_s": 0.42, "peak_mb": 7.6,
    "log_kb": 0.0, "outcome": "413 in 0.01 s",
}  # fmt: skip
DATA = {
    "attacks": {"an endless URL": NOW},
    "fairness": {"alone_ms": 15.0, "beside_ms": 45.0, "worst_ms": 90.0},
    "machine": "2 cores",
    "load": 1.0,
}


def test_a_row_holds_both_measurements_side_by_side():
    then = NOW | {"p99_ms": 224.8, "cpu_s": 16.0, "peak_mb": 165.6, "outcome": "taken"}
    assert row("an endless URL", then, NOW) == (
        "| an endless URL | 225 | 12 | 16.0 | 0.4 | 166 | 8 | taken | 413 in 0.01 s |\n"
    )


def test_an_attack_that_was_not_measured_before_has_empty_cells():
    assert row("new", {}, NOW) == "| new |  | 12 |  | 0.4 |  | 8 |  | 413 in 0.01 s |\n"


def test_attacks_that_slow_the_service_down_are_named():
    assert "through all of them" in page(DATA, {})
    slow = DATA | {"attacks": {"an endless URL": NOW | {"p99_ms": MAX_LIVE_MS}}}
    assert "(p99) in: an endless URL." in page(slow, {})
    assert "| **50** |" in page(slow, {})


def test_the_page_tells_how_fair_the_service_is():
    assert "median of 15 ms becomes 45 ms (3.0 times)" in page(DATA, {})


@pytest.mark.skipif(not (DOCS / "attacks.json").exists(), reason="not measured yet")
def test_the_page_in_the_documentation_is_made_from_its_data():
    data = json.loads((DOCS / "attacks.json").read_text())
    assert (DOCS / "attacks.md").read_text() == page(data, json.loads(BEFORE.read_text()))
    assert data["attacks"].keys() <= found_attacks().keys()
