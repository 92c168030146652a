"""Services and recipes for the tests of other programs, and the record of what they found.

Every file names its program in `PROGRAM`, as the package that brings it is called. Its tests are
skipped where that is not installed. With `TWINFORCE_ECOSYSTEM_RESULTS` the outcomes are written to
that file, from which `tests.ecosystem.table` makes the table of docs/ecosystem.md.
"""

import json
import os
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import ase.calculators.emt
import pytest

import twinforce.ase
from tests.docs.pages import ROOT, blocks_of
from tests.ecosystem.serving import service_of

PAGE = ROOT / "docs" / "ecosystem.md"
EMT = "ase:ase.calculators.emt:EMT"
_RECORD = "TWINFORCE_ECOSYSTEM_RESULTS"
_OUTCOMES = pytest.StashKey()


def installed(program):
    """Return the version of a program, or None."""
    try:
        return version(program)
    except PackageNotFoundError:
        return None


def pytest_configure(config):
    config.stash[_OUTCOMES] = defaultdict(list)


def pytest_runtest_setup(item):
    program = getattr(item.module, "PROGRAM", None)
    if program and not installed(program):
        pytest.skip(f"{program} is not installed")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    program = getattr(item.module, "PROGRAM", None)
    if program and (report.when == "call" or not report.passed):
        line = item.function.__doc__.partition("\n")[0].rstrip(".")
        item.config.stash[_OUTCOMES][program, line].append(report.outcome)
    del call


def pytest_sessionfinish(session):
    if _RECORD not in os.environ:
        return
    rows = [
        {"program": program, "version": installed(program), "what": what, "outcomes": outcomes}
        for (program, what), outcomes in session.config.stash[_OUTCOMES].items()
    ]
    Path(os.environ[_RECORD]).write_text(json.dumps(rows, indent=2) + "\n")


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    """The address of a service of EMT, under the names of the models in the recipes."""
    folder = tmp_path_factory.mktemp("service")
    with service_of(folder, water=EMT, elements6=EMT) as url:
        yield url


@pytest.fixture
def recipe(service, tmp_path, monkeypatch):
    """Return a function that runs the program below a heading of the page; it returns its names.

    With `is_local`, the calculator is EMT in this process instead of that of the service. With
    `url`, another service is used.
    """
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)

    def run(heading, *, is_local=False, url=service):
        code = code_below(heading).replace("grpc://127.0.0.1:8001", url)
        code = code.replace("127.0.0.1:8001", url.removeprefix("grpc://"))
        names = {"__name__": "__main__"}
        with monkeypatch.context() as patch:
            if is_local:
                patch.setattr(twinforce.ase, "TwinForceCalculator", local_calculator)
            exec(compile(code, f"{PAGE.name}: {heading}", "exec"), names)
        return names

    return run


def local_calculator(*_, **__):
    return ase.calculators.emt.EMT()


def code_below(heading, language="python"):
    """Return the programs in a language below a heading, up to the next one."""
    lines = PAGE.read_text().splitlines()
    (begin,) = [n for n, line in enumerate(lines) if line.lstrip("#").strip() == heading]
    end = next(
        (n for n in range(begin + 1, len(lines)) if lines[n].startswith(("## ", "### "))),
        len(lines),
    )
    found = [b.code for b in blocks_of(PAGE) if b.language == language and begin < b.line <= end]
    assert found, f"{PAGE.name} has no program below {heading!r}"
    return "\n".join(found)
