"""Fixtures of engines in separate processes, as few as possible: each takes seconds to start."""

import sys
from contextlib import contextmanager

import pytest

from tests.service import troubled
from twinforce_service.engine.spec import EngineSpec
from twinforce_service.process.process_engine import ProcessEngine

PATIENCE = 180.0


class Gate:
    """A switch that pauses the evaluation of helium and the start of processes."""

    def __init__(self, path):
        self._path = path
        self._held = path.with_name("held")

    @contextmanager
    def closed(self, n_allowed=0):
        """Let each process evaluate at most `n_allowed` batches with helium."""
        new = self._path.with_suffix(".new")
        new.write_text(str(n_allowed))
        new.replace(self._path)
        try:
            yield
        finally:
            self.open()

    def open(self):
        self._path.unlink(missing_ok=True)

    @contextmanager
    def starts_held(self):
        """Keep starting processes from becoming ready."""
        self._held.touch()
        try:
            yield
        finally:
            self._held.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Install the troubled model; return a folder for models."""
    folder = tmp_path_factory.mktemp("site")
    troubled.install(folder)
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="session")
def troubled_model(site):
    """Return the directory of a troubled model, and its gate."""
    gate = troubled.write(site / "model")
    return site / "model", Gate(gate)


@pytest.fixture(scope="session")
def specs(troubled_model):
    """Return the specs of the models that the engines of these tests serve, by name."""
    return {"troubled": str(troubled_model[0]), "lj": "toy:lennard-jones"}


@pytest.fixture
def gate(troubled_model):
    return troubled_model[1]


@contextmanager
def running(spec, **callbacks):
    """Run an engine in a process, and stop it at the end."""
    engine = ProcessEngine(spec, **callbacks)
    engine.start()
    try:
        engine.wait_until_ready(PATIENCE)
        yield engine
    finally:
        engine.stop(PATIENCE)


@pytest.fixture(scope="session")
def make_spec(specs):
    """Return a function that returns the specification of an engine."""

    def make_spec(**values):
        return EngineSpec(**{"models": specs, "device": "cpu"} | values)

    return make_spec
