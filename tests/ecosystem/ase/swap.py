"""A plugin of pytest that puts our calculator in the place of ASE's EMT.

The calculator asks a service that serves EMT itself, so every test of ASE that passes with EMT has
to pass with the calculator, too. Files that use EMT are run, and `exceptions` says which tests in
them cannot pass, and why.
"""

import os
import re
import tempfile
from contextlib import ExitStack
from pathlib import Path

import ase.calculators.emt
import pytest

from tests.ecosystem.ase.exceptions import EXCEPTIONS, NOT_RUN
from tests.ecosystem.serving import service_of
from twinforce import Client
from twinforce.ase import TwinForceCalculator

MODELS = {
    "emt": "ase:ase.calculators.emt:EMT",
    "emt-asap": "ase:ase.calculators.emt:EMT#asap_cutoff=true",
}
_USES_EMT = re.compile(r"\bEMT\b|['\"]emt['\"]")
_URL = "TWINFORCE_EMT_URL"


class RemoteEMT(TwinForceCalculator):
    """EMT, evaluated by a service; like EMT it computes forces and stress with every energy."""

    def __init__(self, asap_cutoff=False):
        model = "emt-asap" if asap_cutoff else "emt"
        super().__init__(_client(), model=model, always=("forces", "stress"))


def pytest_configure(config):
    stack = ExitStack()
    config.add_cleanup(stack.close)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    os.environ[_URL] = stack.enter_context(service_of(folder, **MODELS))
    ase.calculators.emt.EMT = RemoteEMT


def pytest_ignore_collect(collection_path):
    """Leave out the files of tests that do not use EMT."""
    if collection_path.match("test_*.py"):
        return not _USES_EMT.search(collection_path.read_text()) or None
    return None


def pytest_collection_modifyitems(items):
    for item in items:
        name = item.nodeid.rpartition("test/")[2]
        for known in (name, name.partition("[")[0]):
            if known in EXCEPTIONS:
                item.add_marker(pytest.mark.xfail(reason=EXCEPTIONS[known], strict=True))
            if known in NOT_RUN:
                item.add_marker(pytest.mark.skip(reason=NOT_RUN[known]))


_CLIENTS = []


def _client():
    """Return the client that all calculators share, as simulations in one process do."""
    if not _CLIENTS:
        _CLIENTS.append(Client(os.environ[_URL]))
    return _CLIENTS[0]
