"""Tests that an audit tells what is known, and never that nothing is if it could not find out."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from tests.supply.advisories import concerns
from tests.supply.packages import installed

# Stands in for pip-audit: it reads the same arguments and writes the same report.
PROGRAM = """\
#!{python}
import json, sys
advisories, services = {advisories}, {services}
arguments = dict(zip(sys.argv[1:], sys.argv[2:]))
if arguments["--vulnerability-service"] not in services:
    sys.exit("ConnectionError: cannot be resolved")
report = []
for line in open(arguments["--requirement"]):
    name, version = line.strip().split("==")
    if name in {unknown}:
        report.append({{"name": name, "skip_reason": "not found"}})
    else:
        found = advisories.get(name) or advisories.get(f"{{name}}=={{version}}", [])
        vulns = [{{"id": each}} for each in found]
        report.append({{"name": name, "version": version, "vulns": vulns}})
print(json.dumps({{"dependencies": report}}))
"""
KNOWN = {"urllib3==1.24": ["PYSEC-2019-133"]}


@pytest.fixture
def ask(tmp_path):
    def run(advisories, services=("pypi", "osv"), unknown=()):
        path = tmp_path / "pip-audit"
        names = {"advisories": advisories, "services": services, "unknown": unknown}
        path.write_text(PROGRAM.format(python=sys.executable, **names))
        path.chmod(0o755)
        return audit("--pip-audit", str(path))

    return run


def audit(*arguments):
    command = [sys.executable, "-m", "tests.supply.audit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def advisory(name, fixed, modified):
    affected = {
        "package": {"ecosystem": "PyPI", "name": name},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": fixed}]}],
    }
    return {"id": f"PYSEC-{name}", "modified": modified.isoformat(), "affected": [affected]}


@pytest.fixture
def folder(tmp_path):
    def write(*advisories):
        for each in advisories:
            path = tmp_path / "vulns" / each["id"] / "PYSEC.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(each))
        return audit("--advisories", str(tmp_path))

    return write


def test_an_audit_without_findings_ends_well(ask):
    done = ask(KNOWN)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(re.fullmatch(r"0 of (\d+) packages .*\n", done.stdout)[1]) >= len(installed())


def test_an_audit_tells_what_is_vulnerable(ask):
    done = ask({**KNOWN, "numpy": ["PYSEC-1", "PYSEC-2"]})
    assert done.returncode == 1
    assert "numpy " in done.stdout
    assert ": PYSEC-1, PYSEC-2\n1 of " in done.stdout


def test_the_second_service_is_asked_if_the_first_does_not_answer(ask):
    assert ask(KNOWN, services=["osv"]).returncode == 0


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ({"services": []}, "cannot be resolved"),
        ({"advisories": {}}, "knows none of urllib3"),
        ({"unknown": ["urllib3"]}, "nothing about urllib3"),
        ({"unknown": ["numpy"]}, "nothing about numpy"),
    ],
)
def test_an_audit_that_finds_nothing_out_says_so(ask, kind, reason):
    done = ask(**{"advisories": KNOWN} | kind)
    assert (done.returncode, done.stdout) == (3, "")
    assert reason in done.stderr


def test_an_audit_without_its_program_says_so():
    done = audit("--pip-audit", "/nowhere/pip-audit")
    assert done.returncode == 3
    assert "cannot run /nowhere/pip-audit" in done.stderr


def test_advisories_in_files_are_found(folder):
    now = datetime.now(UTC)
    done = folder(advisory("urllib3", "1.25", now), advisory("numpy", "99", now))
    assert done.returncode == 1
    assert ": PYSEC-numpy\n" in done.stdout


def test_new_advisories_in_files_that_concern_nobody_end_well(folder):
    now = datetime.now(UTC)
    assert folder(advisory("urllib3", "1.25", now), advisory("numpy", "0.1", now)).returncode == 0


def test_old_advisories_in_files_say_nothing(folder):
    done = folder(advisory("urllib3", "1.25", datetime(2024, 10, 10, tzinfo=UTC)))
    assert done.returncode == 3
    assert "newest advisory is of 2024-10-10" in done.stderr


def test_a_folder_without_advisories_says_nothing(folder):
    assert folder().returncode == 3


@pytest.mark.parametrize(
    ("events", "versions"),
    [
        ([("introduced", "0"), ("fixed", "2.1")], {"1.0": True, "2.1": False, "2.1rc1": True}),
        (
            [("introduced", "1.5"), ("last_affected", "2")],
            {"1": False, "2.0": True, "2.0.1": False},
        ),
        (
            [("introduced", "2"), ("fixed", "2.7"), ("introduced", "0"), ("fixed", "1.26")],
            {"1.25": True, "1.26": False, "2.0": True, "2.7": False, "3": False},
        ),
        ([("introduced", "1.10")], {"1.9": False, "1.10": True}),
    ],
)
def test_ranges_of_versions_hold_what_lies_between_their_events(events, versions):
    affected = {
        "package": {"ecosystem": "PyPI", "name": "Some.Name"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{kind: text} for kind, text in events]}],
    }
    found = {v: concerns({"affected": [affected]}, "some-name", v) for v in versions}
    assert found == versions
