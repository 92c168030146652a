"""Tests that each threat on the page about security names the tests that show what meets it."""

import re

import pytest

from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "security.md"
_LINK = re.compile(r"\]\((\.\./tests/[^)]+)\)")
_NAME = re.compile(r"`(test_\w+)`")


def threats():
    """Return the threats of the table, each with the cell of its tests."""
    table = PAGE.read_text(encoding="utf-8").partition("| threat |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {row[0]: row[-1] for row in rows}


THREATS = threats()


def test_there_are_threats():
    assert len(THREATS) > 10


@pytest.mark.parametrize("threat", THREATS)
def test_each_threat_names_tests_that_exist(threat):
    cell = THREATS[threat]
    files = [(PAGE.parent / link).resolve() for link in _LINK.findall(cell)]
    names = _NAME.findall(cell)
    assert files
    assert names
    code = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [name for name in names if f"def {name}(" not in code] == []
