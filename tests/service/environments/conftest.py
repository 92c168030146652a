"""One other environment of Python for all tests of this folder, and a family in both."""

import sys

import pytest

from tests.service import troubled
from tests.service.environments import making, marked


@pytest.fixture(scope="session")
def other_python(tmp_path_factory):
    """Return the interpreter of an environment that holds what engines need, and our families."""
    folder = tmp_path_factory.mktemp("environments") / "other"
    python = making.make(folder, with_tests=True)
    for family in (marked, troubled):
        family.install(making.site_of(folder))
    return python


@pytest.fixture(scope="session")
def marked_here(tmp_path_factory):
    """Install the marked family in the environment of the service as well."""
    folder = tmp_path_factory.mktemp("marked")
    marked.install(folder)
    sys.path.append(str(folder))
    yield
    sys.path.remove(str(folder))
